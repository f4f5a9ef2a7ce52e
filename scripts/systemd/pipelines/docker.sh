#!/usr/bin/env bash
# tutum@docker: chat about containers that fail, from the Docker engine of this host.
# Secrets: slack-url in credentials/.
# shellcheck source=scripts/systemd/pipeline.sh
. "${TUTUM_SHARE:-/usr/share/tutum}/pipeline.sh"
required STATE_DIRECTORY
export HOSTNAME

# The engine remembers its last 256 events, and none over its own restart.
from=$(since "$STATE_DIRECTORY/passed")
foreign_source docker events --since "$from" --format '{{json .}}' |
  foreign_stage jq --unbuffered -c -f "${TUTUM_SHARE:-/usr/share/tutum}/adapters/docker.jq" |
  not_in "$STATE_DIRECTORY/passed" |
  tutum-filter --type container --state Stopped --or --type container --where /health=unhealthy --except --where /exit_code=0 |
  to-slack --spool "$STATE_DIRECTORY/chat" \
    --text '{{ name }} {% if health %}is {{ health }}{% else %}stopped with exit code {{ exit_code }}{% endif %}' |
  remember "$STATE_DIRECTORY/passed"
