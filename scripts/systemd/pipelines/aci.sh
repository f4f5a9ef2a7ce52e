#!/usr/bin/env bash
# tutum@aci: an index of what changes in a Cisco ACI fabric.
# Settings: aci.env beside this. Secrets: apic-password, elasticsearch-api-key in credentials/.
# shellcheck source=scripts/systemd/pipeline.sh
. "${TUTUM_SHARE:-/usr/share/tutum}/pipeline.sh"
required STATE_DIRECTORY APIC_URL APIC_USER APIC_TARGETS ELASTICSEARCH_URL

# shellcheck disable=SC2086  # a list of words
aci-stream --resync $APIC_TARGETS |
  to-elasticsearch --url "$ELASTICSEARCH_URL" --index 'aci-{{ received_at[:10] }}' --spool "$STATE_DIRECTORY/index" >/dev/null
