#!/bin/sh
# Runs mosquitto with the files of this folder, made by edgekit: sh run.sh. Certificates, the list
# of those that were taken back, and the access list are read again when they have changed.
set -u
PATH=$PATH:/usr/local/sbin:/usr/sbin
place=$(cd "$(dirname "$0")" && pwd) || exit 1

# A file that is missing for an instant counts as a change, and so does its return.
sum() { (cd "$place" && cat ca.pem broker.pem crl.pem acl 2>/dev/null | cksum); }

known=$(sum)
mosquitto -c "$place/mosquitto.conf" "$@" &
broker=$!
trap 'kill -TERM "$broker" 2>/dev/null' TERM INT
trap 'kill -HUP "$broker" 2>/dev/null' HUP
while sleep 2 & wait $!; kill -0 "$broker" 2>/dev/null; do
    now=$(sum)
    if [ "$now" != "$known" ]; then
        known=$now
        kill -HUP "$broker"
    fi
done
wait "$broker"
