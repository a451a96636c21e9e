#!/bin/sh
# Lifecycle, template and Fluent Bit's user in Elasticsearch; data view and saved search in Kibana. Each step puts what is there into
# the same state again. Fluent Bit's user comes after the template, so that no line is indexed without it.
set -eu
umask 077

here=$(dirname "$0")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
scheme=http
[ "$ELASTICSEARCH_TLS" != on ] || scheme=https
elasticsearch=$scheme://$ELASTICSEARCH_HOST:$ELASTICSEARCH_PORT

# Within quotes, for curl's file and for JSON alike.
quoted() { printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }

# Passwords stand in files, and on no command line.
printf 'user = %s\n' "$(quoted "$SETUP_USERNAME:$SETUP_PASSWORD")" >"$tmp/login"

# call WHAT URL …: say what it is, and stop where it is refused. A server that is not there yet is waited for.
call() {
  what=$1
  shift
  echo "logging-setup: $what"
  curl --config "$tmp/login" --cacert "$ELASTICSEARCH_CA" --silent --show-error --fail-with-body --max-time 30 \
    --retry 60 --retry-delay 5 --retry-max-time 600 --retry-connrefused --output "$tmp/answer" "$@" ||
    { cat "$tmp/answer" >&2 2>/dev/null; echo >&2; exit 1; }
}

put() { call "$1" --request PUT --header 'Content-Type: application/json' --data-binary "@$3" "$elasticsearch$2"; }

sed "s/LOGS_KEEP/$LOGS_KEEP/" "$here/lifecycle.json" >"$tmp/lifecycle.json"
put "lifecycle promptq-logs, $LOGS_KEEP" /_ilm/policy/promptq-logs "$tmp/lifecycle.json"
put "index template promptq-logs" /_index_template/promptq-logs "$here/index-template.json"

if [ "$MAKE_USER" = on ]; then
  put "role promptq-logs" /_security/role/promptq-logs "$here/role.json"
  printf '{"password": %s, "roles": ["promptq-logs"]}' "$(quoted "$ELASTICSEARCH_PASSWORD")" >"$tmp/user.json"
  put "user $ELASTICSEARCH_USERNAME" "/_security/user/$ELASTICSEARCH_USERNAME" "$tmp/user.json"
fi

# Where Kibana is ours, so is its password.
if [ -n "${KIBANA_PASSWORD:-}" ]; then
  printf '{"password": %s}' "$(quoted "$KIBANA_PASSWORD")" >"$tmp/kibana.json"
  put "password of kibana_system" /_security/user/kibana_system/_password "$tmp/kibana.json"
fi

if [ -n "$KIBANA_URL" ]; then
  call "data view and saved search" --request POST --header 'kbn-xsrf: promptq' --form "file=@$here/kibana.ndjson" \
    "$KIBANA_URL/api/saved_objects/_import?overwrite=true"
  # It answers 200 where it imported only some.
  grep -q '"success":true' "$tmp/answer" || { cat "$tmp/answer" >&2; exit 1; }
fi
echo "logging-setup: done"
