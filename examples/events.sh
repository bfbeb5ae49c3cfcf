#!/bin/sh
# Prints a line for every event, from now on, whatever happens to the connection: curl on the gateway.
# Usage: SYNAXIS_URL=http://127.0.0.1:8080 SYNAXIS_KEY=sk-syn-… events.sh ['event=model&provider=nvidia']
set -u
: "${SYNAXIS_URL:=http://127.0.0.1:8080}" "${SYNAXIS_KEY:?set SYNAXIS_KEY}"
last=''
place=$(mktemp) && trap 'rm -f "$place"; exit' INT TERM EXIT

while :; do
    # The key goes in by standard input, so that it does not stand in the list of processes.
    printf 'header = "Authorization: Bearer %s"\n' "$SYNAXIS_KEY" |
        curl -N -s -f -K - ${last:+-H "Last-Event-ID: $last"} "$SYNAXIS_URL/v1/events?${1:-}" |
        while IFS=': ' read -r field value; do
            case $field in
                id) echo "$value" >"$place"; [ -n "${said:-}" ] || { said=1; echo subscribed; } ;;
                event) event=$value ;;
                data) printf '%s %s\n' "$event" "$(printf '%s' "$value" |
                    sed -n 's/.*"subject":"\([^"]*\)".*/\1/p')" ;;
            esac
        done
    last=$(cat "$place")
    sleep 1
done
