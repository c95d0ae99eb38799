-- Roles and grants. Run as superuser, in the database the pool logs in to (`postgres`). May be run again at any time.
--
-- Two groups; a login of yours becomes a member:
--   create role pool_proxy    login password '…' in role pgstmtpool_proxy;                 -- proxyAdminSecretRef
--   create role pool_operator login replication password '…' in role pgstmtpool_operator;  -- adminSecretRef
--
-- pgstmtpool_proxy is all the proxies' own look-ups need (see also 20_auth_lookup.sql).
-- pgstmtpool_operator works without superuser from PostgreSQL 15 on, where ALTER SYSTEM can be granted setting by setting;
-- REPLICATION (for slots) is an attribute and not inherited: give it to the login, as above. Before 15 the operator must log
-- in as superuser: this file says so and grants what it can.
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'pgstmtpool_proxy') then
    create role pgstmtpool_proxy nologin;
  end if;
  if not exists (select from pg_catalog.pg_roles where rolname = 'pgstmtpool_operator') then
    create role pgstmtpool_operator nologin;
  end if;
end
$$;

grant pg_monitor to pgstmtpool_proxy, pgstmtpool_operator;
grant pg_signal_backend to pgstmtpool_operator;
grant execute on function pg_catalog.pg_promote(boolean, integer) to pgstmtpool_operator;
grant execute on function pg_catalog.pg_reload_conf() to pgstmtpool_operator;
grant execute on function pg_catalog.pg_wal_replay_resume() to pgstmtpool_operator;
grant execute on function pg_catalog.pg_read_file(text, bigint, bigint, boolean) to pgstmtpool_operator;
grant execute on function pg_catalog.pg_stat_file(text, boolean) to pgstmtpool_operator;

do $$
begin
  if pg_catalog.current_setting('server_version_num')::int < 150000 then
    raise notice 'PostgreSQL before 15: the operator has to log in as superuser';
    return;
  end if;
  -- Not known to the parser of older versions, hence EXECUTE.
  execute 'grant alter system on parameter primary_conninfo, primary_slot_name, synchronous_standby_names,
           default_transaction_read_only to pgstmtpool_operator';
  execute 'grant pg_checkpoint to pgstmtpool_operator';
end
$$;
