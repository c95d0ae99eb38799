-- The look-up of password verifiers for `auth.authQuery`, for proxies that do not log in as superuser. Run after 00_role.sql
-- as superuser on the master, in the database the proxies' own login uses. May be run again at any time.
--
-- SECURITY DEFINER with a pinned search path: neither a client's startup parameters nor anything a user creates changes what
-- it reads. Roles that cannot log in, and passwords whose VALID UNTIL has passed, have no verifier here (CVE-2025-2291).
create schema if not exists pgstmtpool;
revoke all on schema pgstmtpool from public;
grant usage on schema pgstmtpool to pgstmtpool_proxy;

create or replace function pgstmtpool.user_lookup(
  in p_user text,
  out username text, out verifier text, out valid_until timestamptz, out is_superuser bool, out can_login bool)
  returns setof record
  language sql stable strict security definer set search_path = pg_catalog, pg_temp as $$
  select a.rolname::text,
    case when a.rolcanlogin and (a.rolvaliduntil is null or a.rolvaliduntil > clock_timestamp())
      then a.rolpassword end,
    a.rolvaliduntil, a.rolsuper, a.rolcanlogin
  from pg_authid a
  where a.rolname = p_user::name and octet_length(p_user) < 64
$$;

revoke all on function pgstmtpool.user_lookup(text) from public;
grant execute on function pgstmtpool.user_lookup(text) to pgstmtpool_proxy;
