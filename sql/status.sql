-- What one server says of itself: one row, one jsonb. Runs unchanged on PostgreSQL 12 to 18, on a master and on a
-- standby, without being superuser (pg_monitor shows all of it; without it the hidden parts are null).
select pg_catalog.jsonb_build_object(
  'version', pg_catalog.current_setting('server_version_num')::int,
  'system', (select system_identifier::text from pg_catalog.pg_control_system()),
  'recovery', pg_catalog.pg_is_in_recovery(),
  -- After a promotion the control file has the old timeline until the next checkpoint: a master's is in the name of its
  -- log file. A standby's is the greatest of what it receives, what it must reach, and its last restart point.
  'timeline', case when pg_catalog.pg_is_in_recovery()
    then greatest((select received_tli from pg_catalog.pg_stat_wal_receiver),
                  (select min_recovery_end_timeline from pg_catalog.pg_control_recovery()),
                  (select timeline_id from pg_catalog.pg_control_checkpoint()))
    else ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))
         ::pg_catalog.bit(32)::int end,
  -- A standby that was restarted first applies what is in its own log, and nothing says how much that is until it asks for more.
  -- Looked at before the position, which then holds all of it. Null: we may not see.
  'replaying', pg_catalog.pg_is_in_recovery() and pg_catalog.pg_last_wal_receive_lsn() is null and
    (select wait_event is null
         or wait_event not in ('RecoveryWalStream', 'RecoveryWalAll', 'RecoveryRetrieveRetryInterval')
       from pg_catalog.pg_stat_activity where backend_type = 'startup' limit 1),
  -- The received position alone is wrong after a restart without a master.
  'lsn', case when pg_catalog.pg_is_in_recovery()
    then greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
    else pg_catalog.pg_current_wal_flush_lsn() end,
  'replay', case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() end,
  'receiver', (select pg_catalog.jsonb_build_object(
      'status', status, 'host', sender_host, 'port', sender_port, 'timeline', received_tli,
      'age_ms', (extract(epoch from pg_catalog.clock_timestamp() - last_msg_receipt_time) * 1000)::bigint)
    from pg_catalog.pg_stat_wal_receiver where pid is not null),
  'conninfo', (select setting from pg_catalog.pg_settings where name = 'primary_conninfo'),
  'pending_restart', (select pending_restart from pg_catalog.pg_settings where name = 'primary_conninfo'),
  'slot', (select setting from pg_catalog.pg_settings where name = 'primary_slot_name'),
  'sync_names', pg_catalog.current_setting('synchronous_standby_names'),
  'delay', (select setting from pg_catalog.pg_settings where name = 'recovery_min_apply_delay'),
  'read_only', pg_catalog.current_setting('default_transaction_read_only')::bool,
  'data_directory', (select setting from pg_catalog.pg_settings where name = 'data_directory'),
  'connections', pg_catalog.current_setting('max_connections')::int
               - pg_catalog.current_setting('superuser_reserved_connections')::int,
  'clients', (select pg_catalog.count(*) from pg_catalog.pg_stat_activity
              where backend_type = 'client backend' and pid <> pg_catalog.pg_backend_pid()
                and not (application_name = 'pgstmtpool-probe' and usename = current_user)),
  'senders', (select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', application_name, 'state', state, 'sync_state', sync_state, 'flushed', flush_lsn))
    from pg_catalog.pg_stat_replication),
  'slots', (select pg_catalog.jsonb_object_agg(slot_name, active) from pg_catalog.pg_replication_slots
            where slot_type = 'physical' and slot_name like 'pgp\_%'),
  'may', pg_catalog.jsonb_build_object(
    'superuser', (select rolsuper from pg_catalog.pg_roles where rolname = current_user),
    'read_files', pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text,bigint,bigint,boolean)', 'execute')
              and pg_catalog.has_function_privilege('pg_catalog.pg_stat_file(text,boolean)', 'execute')
              and pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute'),
    'programs', pg_catalog.pg_has_role('pg_execute_server_program', 'member')
            and pg_catalog.pg_has_role('pg_write_server_files', 'member'),
    'stop', (select pg_catalog.bool_or(pg_catalog.has_function_privilege(f.oid, 'execute'))
             from pg_catalog.pg_proc f join pg_catalog.pg_namespace n on n.oid = f.pronamespace
             where n.nspname = 'pgstmtpool' and f.proname = 'stop'
               and pg_catalog.has_schema_privilege(n.oid, 'usage'))))
