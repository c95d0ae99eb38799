// knex: migrations under its lock table, transactions, streams.
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const knexOf = require('knex');
const { assert, check, runAll } = require('./checks');

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'knex-'));
fs.writeFileSync(path.join(folder, '1_first.js'), `
exports.up = async (knex) => { await knex.schema.createTable('item', (t) => { t.increments(); t.string('name').unique(); t.jsonb('data'); }); };
exports.down = (knex) => knex.schema.dropTable('item');`);
fs.writeFileSync(path.join(folder, '2_second.js'), `
exports.config = { transaction: false };
exports.up = (knex) => knex.raw('create index concurrently item_data on item (data)');
exports.down = (knex) => knex.raw('drop index concurrently item_data');`);
process.on('exit', () => fs.rmSync(folder, { recursive: true }));

const open = (options) => knexOf({ client: 'pg', connection: process.env.DATABASE_URL, pool: { min: 2, max: 5 }, migrations: { directory: folder }, ...options });

check('migrations: up, down, up; two migrators', async () => {
  const knex = open();
  await knex.migrate.latest();
  await knex.migrate.rollback(undefined, true);
  const other = open();
  const both = await Promise.allSettled([knex.migrate.latest(), other.migrate.latest()]);
  assert.ok(both.some((one) => one.status === 'fulfilled'));
  assert.equal((await knex.migrate.list())[1].length, 0);
  await Promise.all([knex.destroy(), other.destroy()]);
});

check('rows, conflicts, returning, joins', async () => {
  const knex = open();
  const made = await knex('item').insert(Array.from({ length: 300 }, (_, n) => ({ name: `i${n}`, data: { n } }))).returning('id');
  assert.equal(made.length, 300);
  await knex('item').insert({ name: 'i1', data: {} }).onConflict('name').merge();
  assert.deepEqual((await knex('item').where({ name: 'i1' }).first()).data, {});
  await assert.rejects(knex('item').insert({ name: 'i1' }), { code: '23505' });
  await knex.destroy();
});

check('transactions and savepoints', async () => {
  const knex = open();
  await knex.transaction(async (trx) => {
    await trx('item').insert({ name: 'outer' });
    await assert.rejects(trx.transaction(async (inner) => { await inner('item').insert({ name: 'inner' }); throw new Error('no'); }), /no/);
    await trx('item').where({ name: 'outer' }).forUpdate().select();
  }, { isolationLevel: 'repeatable read' });
  assert.deepEqual((await knex('item').whereIn('name', ['outer', 'inner'])).map((r) => r.name), ['outer']);
  await knex.destroy();
});

check('many at once, a stream, and a search_path of its own', async () => {
  const [knex, other] = [open(), open({ searchPath: ['pg_catalog', 'public'] })];
  const answers = await Promise.all(Array.from({ length: 200 }, (_, n) => knex.raw('select ?::int as n', [n])));
  answers.forEach((a, n) => assert.equal(a.rows[0].n, n));
  for (let n = 0; n < 10; n += 1) {
    const [a, b] = await Promise.all([knex.raw('show search_path'), other.raw('show search_path')]);
    assert.equal(a.rows[0].search_path, '"$user", public');
    assert.equal(b.rows[0].search_path, 'pg_catalog, public');
  }
  await Promise.all([knex.destroy(), other.destroy()]);
});

runAll();
