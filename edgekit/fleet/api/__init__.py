"""The control plane's face: a REST API with OpenAPI, Prometheus figures, and the page.

`control_plane` is what it works on, `security` who may, `app` puts the routes together, `serving`
runs it. It holds no rules of the fleet: each route parses, makes one library call, and answers.
Imports FastAPI: nothing that a command line needs for its help may import it.
"""
