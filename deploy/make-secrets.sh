#!/bin/sh
# Make the passwords of docker-compose.yml in deploy/secrets, once: what is there already stays.
# The folder is closed; its files are readable, because the processes in the containers are other users.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
put() {
    [ -e "secrets/$1" ] || { printf '%s' "$2" >"secrets/$1"; chmod 0444 "secrets/$1"; }
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
put postgres_password "$(random)"
put redis_password "$(random)"
put flower_basic_auth "admin:$(random)"
put metrics_token "$(random)"
put database_url "postgresql://darkroom:$(cat secrets/postgres_password)@postgres:5432/darkroom"
put redis_url "redis://:$(cat secrets/redis_password)@redis:6379/0"
