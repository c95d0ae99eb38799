-- Takes everything of sql/ away again: schema, roles, grants. Logins that are members of the two groups stay, without the
-- membership. Run as superuser in each database where the others were run. May be run again at any time.
drop schema if exists pgstmtpool cascade;

do $$
declare
  role text;
begin
  foreach role in array array['pgstmtpool_proxy', 'pgstmtpool_operator'] loop
    if exists (select from pg_catalog.pg_roles where rolname = role) then
      -- Grants on functions and settings of this database; in the next database the same file finds the rest.
      execute pg_catalog.format('drop owned by %I', role);
      begin
        execute pg_catalog.format('drop role %I', role);
      exception when dependent_objects_still_exist then
        raise notice 'role % has grants in another database: run this file there too', role;
      end;
    end if;
  end loop;
end
$$;
