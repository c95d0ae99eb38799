# frozen_string_literal: true

# The pg gem: parameters, prepared statements, pipelines, COPY, LISTEN, cancel.
require 'pg'
require_relative 'checks'

def connect(**options)
  PG.connect(**options)
end

check('parameters and prepared statements of two connections with one name') do
  one, two = connect, connect
  one.prepare('same', 'select $1::int + 1 as r')
  two.prepare('same', 'select $1::text as r')
  10.times do |n|
    same one.exec_prepared('same', [n])[0]['r'], (n + 1).to_s
    same two.exec_prepared('same', ["ä#{n}"])[0]['r'], "ä#{n}"
    same one.exec_params('select $1::bytea', [{ value: "\x00\xff".b, format: 1 }], 1).getvalue(0, 0), "\x00\xff".b
  end
  same one.describe_prepared('same').paramtype(0), 23
  one.exec('deallocate same')
  raises(PG::InvalidSqlStatementName) { one.exec_prepared('same', [1]) }
  same two.exec_prepared('same', ['x'])[0]['r'], 'x'
  [one, two].each(&:close)
end

check('a pipeline with an error in it') do
  c = connect
  c.enter_pipeline_mode
  5.times { |n| c.send_query_params('select $1::int', [n]) }
  c.pipeline_sync
  c.send_query_params('select 1/0', [])
  c.send_query_params("select 'skipped'", [])
  c.pipeline_sync
  c.send_query_params("select 'last'", [])
  c.pipeline_sync
  seen = []
  syncs = 0
  while syncs < 3
    result = c.get_result or next
    case result.result_status
    when PG::PGRES_PIPELINE_SYNC then syncs += 1
    when PG::PGRES_TUPLES_OK then seen << result.getvalue(0, 0)
    when PG::PGRES_PIPELINE_ABORTED then seen << 'aborted'
    else seen << result.result_error_field(PG::PG_DIAG_SQLSTATE)
    end
  end
  same seen, %w[0 1 2 3 4 22012 aborted last]
  c.exit_pipeline_mode
  c.close
end

check('transactions and single-row mode') do
  c = connect
  c.exec('create table accounts (n int primary key)')
  raises(ZeroDivisionError) { c.transaction { |t| t.exec('insert into accounts values (1)'); 1 / 0 } }
  c.transaction { |t| t.exec('insert into accounts values (2)') }
  same c.exec('select array_agg(n) from accounts').getvalue(0, 0), '{2}'
  c.send_query('select generate_series(1, 1000)')
  c.set_single_row_mode
  sum = 0
  c.get_result.stream_each { |row| sum += row['generate_series'].to_i }
  same sum, 500_500
  c.close
end

check('COPY in both directions') do
  c = connect
  c.exec('create table copied (n int, s text)')
  c.copy_data('copy copied from stdin') { 10_000.times { |n| c.put_copy_data("#{n}\trow #{n}\n") } }
  lines = []
  c.copy_data('copy copied to stdout') { while (row = c.get_copy_data) do lines << row end }
  same lines.size, 10_000
  raises(PG::InvalidTextRepresentation) { c.copy_data('copy copied from stdin') { c.put_copy_data("x\ty\n") } }
  raises(RuntimeError) { c.copy_data('copy copied from stdin') { c.put_copy_data("1\ty\n"); raise 'given up' } }
  same c.exec('select count(*) from copied').getvalue(0, 0), '10000'
  c.close
end

check('notifications, also its own') do
  one, two = connect, connect
  one.exec('listen talk')
  two.exec("notify talk, 'from two'")
  one.exec("notify talk, 'from one'")
  heard = Array.new(2) { got = nil; one.wait_for_notify(10) { |_, pid, payload| got = [payload, pid == one.backend_pid] }; got }
  same heard, [['from two', false], ['from one', true]]
  one.exec('unlisten *')
  two.exec("notify talk, 'unheard'")
  same one.wait_for_notify(0.3), nil
  [one, two].each(&:close)
end

check('cancel, reset, and settings') do
  one, two = connect(options: '-c timezone=Asia/Tokyo'), connect
  Thread.new { sleep 0.3; one.cancel }
  raises(PG::QueryCanceled) { one.exec('select pg_sleep(20)') }
  two.exec("set timezone = 'Africa/Nairobi'")
  5.times do
    same one.exec('show timezone').getvalue(0, 0), 'Asia/Tokyo'
    same two.exec('show timezone').getvalue(0, 0), 'Africa/Nairobi'
  end
  two.reset
  same two.exec('show timezone').getvalue(0, 0) == 'Africa/Nairobi', false
  one.close
  two.close
end

run_all
