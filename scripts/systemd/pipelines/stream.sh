#!/usr/bin/env bash
# tutum@stream: pages for what is in trouble, chat about services, from a Tutum Stream API.
# Settings: stream.env beside this. Secrets: tutum-apikey, pagerduty-key, slack-url in credentials/.
# shellcheck source=scripts/systemd/pipeline.sh
. "${TUTUM_SHARE:-/usr/share/tutum}/pipeline.sh"
required STATE_DIRECTORY

# The pager comes before the chat, since a full queue holds up what is behind it, and goes on without it.
tutum-stream --resync --state "$STATE_DIRECTORY/seen" |
  tutum-enrich |
  to-pagerduty --spool "$STATE_DIRECTORY/pages" |
  tutum-filter --lifecycle --type service |
  optional_sink to-slack --spool "$STATE_DIRECTORY/chat" >/dev/null
