#!/usr/bin/env bash
# tutum@podman: chat about containers that fail, from the Podman of this host, through the socket that podman.socket opens.
# Secrets: slack-url in credentials/.
# shellcheck source=scripts/systemd/pipeline.sh
. "${TUTUM_SHARE:-/usr/share/tutum}/pipeline.sh"
required STATE_DIRECTORY
export HOSTNAME

# Podman keeps its events in the journal, so that none is missed.
from=$(since "$STATE_DIRECTORY/passed")
foreign_source podman --remote events --since "$from" --format json |
  foreign_stage jq --unbuffered -c -f "${TUTUM_SHARE:-/usr/share/tutum}/adapters/podman.jq" |
  not_in "$STATE_DIRECTORY/passed" |
  tutum-filter --type container --state Stopped --or --type container --where /health=unhealthy --except --where /exit_code=0 |
  to-slack --spool "$STATE_DIRECTORY/chat" \
    --text '{{ name }} {% if health %}is {{ health }}{% else %}stopped with exit code {{ exit_code }}{% endif %}' |
  remember "$STATE_DIRECTORY/passed"
