# frozen_string_literal: true

# ActiveRecord: migrations under its advisory lock, prepared statements, nested transactions, a pool of threads.
require 'active_record'
require 'tmpdir'
require_relative 'checks'

CONFIG = { adapter: 'postgresql', host: ENV.fetch('PGHOST'), port: ENV.fetch('PGPORT'), username: ENV.fetch('PGUSER'),
           password: ENV.fetch('PGPASSWORD'), database: ENV.fetch('PGDATABASE'), pool: 8 }.freeze
ActiveRecord::Base.establish_connection(CONFIG)
ActiveRecord::Migration.verbose = false
ActiveRecord::Base.default_timezone = :utc

class Author < ActiveRecord::Base
  has_many :books, dependent: :destroy
  validates :name, uniqueness: true
end

class Book < ActiveRecord::Base
  belongs_to :author
end

FOLDER = Dir.mktmpdir('migrations')
at_exit { FileUtils.rm_rf(FOLDER) }
File.write("#{FOLDER}/1_create_authors.rb", <<~RUBY)
  class CreateAuthors < ActiveRecord::Migration[6.1]
    def change
      create_table(:authors) { |t| t.string :name, null: false; t.jsonb :data, default: {}; t.string :tags, array: true; t.integer :visits, default: 0; t.timestamps }
      create_table(:books) { |t| t.references :author, foreign_key: true; t.string :title }
    end
  end
RUBY
File.write("#{FOLDER}/2_index_authors.rb", <<~RUBY)
  class IndexAuthors < ActiveRecord::Migration[6.1]
    disable_ddl_transaction!
    def change
      add_index :authors, :name, unique: true, algorithm: :concurrently
    end
  end
RUBY
File.write("#{FOLDER}/3_fill_authors.rb", <<~RUBY)
  class FillAuthors < ActiveRecord::Migration[6.1]
    class One < ActiveRecord::Base; self.table_name = 'authors'; end
    def up
      50.times { |n| One.create!(name: "first \#{n}") }
      add_column :authors, :note, :text, default: 'none', null: false
      One.reset_column_information
      One.update_all(note: 'seen')
    end
    def down
      remove_column :authors, :note
      One.delete_all
    end
  end
RUBY

def context
  ActiveRecord::MigrationContext.new(FOLDER, ActiveRecord::SchemaMigration)
end

def in_threads(count)
  Array.new(count) do |n|
    Thread.new do
      Thread.current.report_on_exception = false
      ActiveRecord::Base.connection_pool.with_connection { yield n }
    end
  end.each(&:join)
end

check('migrations: up, down, up; their lock is free afterwards') do
  context.migrate
  same context.needs_migration?, false
  context.rollback(3)
  context.migrate
  same Author.where(note: 'seen').count, 50
  same ActiveRecord::Base.connection.select_value("select count(*) from pg_locks where locktype = 'advisory'"), 0
end

check('a migrator that meets another one gives up') do
  other = PG.connect
  number = context.open.send(:generate_migrator_advisory_lock_id)
  other.exec("select pg_advisory_lock(#{number})")
  context.rollback(1) rescue same($!.class, ActiveRecord::ConcurrentMigrationError)
  other.close
  sleep 0.01 until ActiveRecord::Base.connection.select_value("select count(*) from pg_locks where locktype = 'advisory'").zero?
  context.migrate
end

check('rows, associations, JSON and arrays, prepared again and again') do
  author = Author.create!(name: 'ä€😀', data: { a: [1] }, tags: %w[x y])
  author.books.create!(Array.new(20) { |n| { title: "b#{n}" } })
  30.times { |n| same Book.find_by(title: "b#{n % 20}").author_id, author.id }
  found = Author.includes(:books).where('tags @> ?', '{x}').first
  same [found.data, found.books.size], [{ 'a' => [1] }, 20]
  Author.insert_all(Array.new(100) { |n| { name: "bulk #{n}", created_at: Time.now, updated_at: Time.now } })
  same Author.where('name like ?', 'bulk%').find_each(batch_size: 10).count, 100
  Author.upsert({ name: 'bulk 1', visits: 7, created_at: Time.now, updated_at: Time.now }, unique_by: :name)
  same Author.find_by(name: 'bulk 1').visits, 7
end

check('nested transactions, locks, isolation') do
  Author.transaction do
    Author.create!(name: 'outer')
    Author.transaction(requires_new: true) { Author.create!(name: 'inner'); raise ActiveRecord::Rollback }
    raises(ActiveRecord::RecordNotUnique) { Author.transaction(requires_new: true) { Author.new(name: 'outer').save!(validate: false) } }
  end
  same Author.where(name: %w[outer inner]).pluck(:name), ['outer']
  in_threads(5) { 10.times { Author.find_by(name: 'outer').with_lock { |_| Author.where(name: 'outer').update_all('visits = visits + 1') } } }
  same Author.find_by(name: 'outer').visits, 50
  Author.transaction(isolation: :serializable) { same Author.connection.select_value('show transaction_isolation'), 'serializable' }
end

check('threads over the pool get their own answers') do
  in_threads(6) do |number|
    30.times { |n| same Author.connection.select_value(Author.sanitize_sql(['select ?', "#{number}-#{n}"])), "#{number}-#{n}" }
    20.times { |n| same Author.where(name: "bulk #{(number * 7 + n) % 100}").count, 1 }
  end
end

check('a table that changes under prepared statements, inside and outside of transactions') do
  3.times { Author.find_by(name: 'outer').visits }
  PG.connect.exec('alter table authors add column extra int')
  same Author.where(name: 'outer').to_a.size, 1
  Author.transaction { same Author.where(name: 'outer').to_a.size, 1 }
end

check('without prepared statements, with a search_path and variables of its own') do
  ActiveRecord::Base.establish_connection(CONFIG.merge(prepared_statements: false, schema_search_path: 'pg_catalog,public',
                                                       variables: { statement_timeout: '9s', 'app.tenant': 'x' }))
  5.times do
    same Author.connection.select_value('show search_path'), 'pg_catalog, public'
    same Author.connection.select_value('show statement_timeout'), '9s'
    same Author.where(name: 'outer').count, 1
  end
end

run_all
