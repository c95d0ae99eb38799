-- What only the files of a server tell; asked where `may.read_files` of status.sql allows it.
-- history: how its timeline came about. wal_timeline: a standby without a WAL receiver has the timeline it received last
-- in the names of its log segments and nowhere else until the next restart point.
select pg_catalog.jsonb_build_object(
  'standby_signal', (pg_catalog.pg_stat_file('standby.signal', true)).size is not null,
  'wal_timeline', t.timeline,
  'history', pg_catalog.pg_read_file('pg_wal/' || pg_catalog.upper(pg_catalog.lpad(
      pg_catalog.to_hex(t.timeline), 8, '0')) || '.history', 0, 1000000, true))
from (select greatest(
    (select received_tli from pg_catalog.pg_stat_wal_receiver),
    case when not pg_catalog.pg_is_in_recovery()
      then ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))
           ::pg_catalog.bit(32)::int
      else greatest(
        (select min_recovery_end_timeline from pg_catalog.pg_control_recovery()),
        (select timeline_id from pg_catalog.pg_control_checkpoint()),
        (select ('x' || pg_catalog.max(pg_catalog.substr(name, 1, 8)))::pg_catalog.bit(32)::int
           from pg_catalog.pg_ls_waldir() where name ~ '^[0-9A-F]{24}$')) end) as timeline) as t
