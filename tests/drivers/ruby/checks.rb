# frozen_string_literal: true

# What every program here does: runs its checks in order and says which passed.
CHECKS = []

def check(claim, &run)
  CHECKS << [claim, run]
end

def same(got, want)
  raise "got #{got.inspect} instead of #{want.inspect}" unless got == want
end

def raises(kind)
  yield
rescue kind => e
  e
else
  raise "no #{kind}"
end

def run_all
  CHECKS.each do |claim, run|
    run.call
    puts "passed: #{claim}"
  rescue StandardError => e
    warn "failed: #{claim}\n#{e.class}: #{e.message}", e.backtrace.grep(/_check/)
    exit 1
  end
  puts 'all passed'
end
