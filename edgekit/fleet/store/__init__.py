"""What the control plane remembers: tables, their migrations, and transactions on them.

SQLite by default, PostgreSQL where one machine is outgrown, and the same statements on both. It
knows no rules of the fleet: registry, devices, rollouts and audit log have theirs in packages of
their own. SQLAlchemy is imported by nothing that a command line needs for its help.
"""
