#!/bin/sh
# Starts PostgreSQL. Makes the data first where there is none: a new cluster in the first pod, a copy of it in the others.
# With the guard this runs behind it, and the others have their copy already.
set -eu

first=$PGSTMTPOOL_BOOTSTRAP_MASTER

create() {
  fresh=$PGDATA.new
  rm -rf "$fresh"
  printf '%s' "$ADMIN_PASSWORD" >/tmp/password
  # shellcheck disable=SC2086 # several arguments
  initdb --pgdata="$fresh" --username="$ADMIN_USERNAME" --pwfile=/tmp/password --auth-host=scram-sha-256 --auth-local=trust $INITDB_ARGS
  rm -f /tmp/password
  echo "include_if_exists = '/etc/pgstmtpool-postgres/settings.conf'" >>"$fresh/postgresql.conf"
  # Nobody can connect but this script until the roles are there.
  pg_ctl --pgdata="$fresh" --wait --options="-c listen_addresses='' -c hba_file=$fresh/pg_hba.conf" start >/dev/null
  psql --no-psqlrc --quiet --username="$ADMIN_USERNAME" --host=/tmp --dbname=postgres --set=ON_ERROR_STOP=1 \
    --set=user="$PGSTMTPOOL_REPLICATION_USER" --set=password="$PGSTMTPOOL_REPLICATION_PASSWORD" <<'SQL'
create role :"user" login replication password :'password';
SQL
  if [ -n "${APP_USERNAME:-}" ]; then
    psql --no-psqlrc --quiet --username="$ADMIN_USERNAME" --host=/tmp --dbname=postgres --set=ON_ERROR_STOP=1 \
      --set=user="$APP_USERNAME" --set=password="$APP_PASSWORD" --set=database="$APP_DATABASE" <<'SQL'
create role :"user" login password :'password';
create database :"database" owner :"user";
SQL
  fi
  pg_ctl --pgdata="$fresh" --wait --mode=fast stop >/dev/null
  mv "$fresh" "$PGDATA"
}

copy() {
  echo "waiting for $first, to copy it"
  until pg_isready --quiet --host="$first" --timeout=3; do sleep 1; done
  rm -rf "$PGDATA.new"
  PGPASSWORD=$PGSTMTPOOL_REPLICATION_PASSWORD pg_basebackup --pgdata="$PGDATA.new" --checkpoint=fast --wal-method=stream --write-recovery-conf \
    --dbname="host=$first user=$PGSTMTPOOL_REPLICATION_USER application_name=$POD_NAME"
  mv "$PGDATA.new" "$PGDATA"
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  rm -rf "$PGDATA"
  if [ "${first%%.*}" = "$POD_NAME" ]; then create; else copy; fi
fi
# fsGroup makes files of a volume writable for their group, which PostgreSQL refuses.
chmod 0700 "$PGDATA"
exec postgres -D "$PGDATA"
