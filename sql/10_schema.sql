-- Schema pgstmtpool: the epoch row and helpers for the operator. Optional: a superuser needs none of it. Run after
-- 00_role.sql as superuser on the master, in the database the operator logs in to. May be run again at any time.
--
-- The search path of every function is pinned: nothing a user creates is ever found by it.
create schema if not exists pgstmtpool;
revoke all on schema pgstmtpool from public;
grant usage on schema pgstmtpool to pgstmtpool_operator, pgstmtpool_proxy;

-- One row a change of master, written to the log: tells two timelines with the same number apart.
create table if not exists pgstmtpool.epoch (
  epoch bigint primary key,
  op_id text not null,
  master_name text not null,
  at timestamptz not null default pg_catalog.clock_timestamp()
);
revoke all on pgstmtpool.epoch from public;
grant select, insert on pgstmtpool.epoch to pgstmtpool_operator;
grant select on pgstmtpool.epoch to pgstmtpool_proxy;

-- What status.sql tells, in short: for people and for monitoring.
create or replace function pgstmtpool.status() returns jsonb
  language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object(
    'version', current_setting('server_version_num')::int,
    'system', (select system_identifier::text from pg_control_system()),
    'recovery', pg_is_in_recovery(),
    'lsn', case when pg_is_in_recovery()
      then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
      else pg_current_wal_flush_lsn() end,
    'receiver', (select status from pg_stat_wal_receiver),
    'sync_names', current_setting('synchronous_standby_names'),
    'start', pg_postmaster_start_time())
$$;

-- Makes a physical slot that keeps the log from now on. False: it was there.
create or replace function pgstmtpool.ensure_slot(name text) returns boolean
  language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from pg_replication_slots where slot_name = $1) then
    return false;
  end if;
  perform pg_create_physical_replication_slot($1, true);
  return true;
end
$$;

-- Drops a slot that nobody uses. False: there is none, or somebody uses it.
create or replace function pgstmtpool.drop_slot(name text) returns boolean
  language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_replication_slots where slot_name = $1 and not active) then
    return false;
  end if;
  perform pg_drop_replication_slot($1);
  return true;
end
$$;

-- How timeline `tli` came about, oldest first: each ancestor and where it was left.
create or replace function pgstmtpool.history(tli int, out timeline int, out switchpoint pg_lsn, out reason text)
  returns setof record
  language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select part[1]::int, part[2]::pg_lsn, part[3]
  from regexp_split_to_table(
      pg_read_file('pg_wal/' || upper(lpad(to_hex($1), 8, '0')) || '.history', 0, 1000000, true), E'\n') as line,
    regexp_match(line, E'^\\s*(\\d+)\\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)\\s*(.*)$') as part
  where part is not null
$$;

-- Where timeline `tli` left its parent; null: it has none.
create or replace function pgstmtpool.switchpoint(tli int) returns pg_lsn
  language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select switchpoint from pgstmtpool.history($1) order by timeline desc limit 1
$$;

-- Whatever restarts this server, it comes back as a standby. SECURITY DEFINER, so that the operator need not be allowed to
-- write any file it likes.
create or replace function pgstmtpool.make_standby() returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  execute format('copy (select where false) to %L', current_setting('data_directory') || '/standby.signal');
end
$$;

-- Takes that back.
create or replace function pgstmtpool.unmake_standby() returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  copy (select where false) to program 'rm -f standby.signal';
end
$$;

-- Stops this server: fast (sessions are ended, standbys get the whole log) or immediate (it will recover). The caller loses
-- his connection or sees an error; whether it worked shows when nobody answers any more. SECURITY DEFINER as above.
create or replace function pgstmtpool.stop(mode text default 'fast') returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- The working folder of a server process is its data directory.
  case mode
    when 'fast' then copy (select where false) to program 'kill -INT $(head -n 1 postmaster.pid)';
    when 'immediate' then copy (select where false) to program 'kill -QUIT $(head -n 1 postmaster.pid)';
    else raise exception 'mode %: expected fast or immediate', mode using errcode = '22023';
  end case;
end
$$;

-- Ends the sessions of clients but those whose application_name is listed. Returns how many. Sessions of superusers are left
-- to superusers: PostgreSQL would refuse all of it.
create or replace function pgstmtpool.kick_clients(except_app text[] default '{}') returns bigint
  language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
  where backend_type = 'client backend' and pid <> pg_backend_pid() and application_name <> all ($1)
    and (usesysid in (select oid from pg_roles where not rolsuper)
         or (select rolsuper from pg_roles where rolname = current_user))
$$;

-- Ends the streams to standbys; they try again at once unless they are detached. Returns how many.
create or replace function pgstmtpool.kick_walsenders() returns bigint
  language sql volatile security invoker set search_path = pg_catalog, pg_temp as $$
  select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
  where backend_type = 'walsender'
    and (usesysid in (select oid from pg_roles where not rolsuper)
         or (select rolsuper from pg_roles where rolname = current_user))
$$;

revoke all on all functions in schema pgstmtpool from public;
grant execute on function pgstmtpool.status(), pgstmtpool.ensure_slot(text), pgstmtpool.drop_slot(text),
  pgstmtpool.history(int), pgstmtpool.switchpoint(int), pgstmtpool.make_standby(), pgstmtpool.unmake_standby(),
  pgstmtpool.stop(text), pgstmtpool.kick_clients(text[]), pgstmtpool.kick_walsenders() to pgstmtpool_operator;
grant execute on function pgstmtpool.status() to pgstmtpool_proxy;
