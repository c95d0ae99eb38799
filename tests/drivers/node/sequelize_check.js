// Sequelize: its start-up SETs in one Query, models, findOrCreate (a function in pg_temp), transactions.
const { DataTypes, Op, Sequelize } = require('sequelize');
const { assert, check, runAll } = require('./checks');

const open = (options) => new Sequelize(process.env.DATABASE_URL, { logging: false, pool: { max: 5 }, ...options });
const define = (db) => {
  const Author = db.define('author', { name: { type: DataTypes.STRING, unique: true }, data: DataTypes.JSONB, tags: DataTypes.ARRAY(DataTypes.STRING) });
  const Book = db.define('book', { title: DataTypes.STRING, kind: DataTypes.ENUM('long', 'short') });
  Author.hasMany(Book);
  Book.belongsTo(Author);
  return { Author, Book };
};

check('sync(), models, includes', async () => {
  const db = open();
  const { Author, Book } = define(db);
  await db.sync({ force: true });
  await db.sync({ alter: true });
  await Author.bulkCreate(Array.from({ length: 100 }, (_, n) => ({ name: `a${n}`, data: { n }, tags: ['x', String(n)] })));
  const author = await Author.findOne({ where: { data: { n: 7 } } });
  await author.createBook({ title: 'one', kind: 'long' });
  const found = await Author.findOne({ where: { tags: { [Op.contains]: ['7'] } }, include: Book });
  assert.equal(found.books[0].title, 'one');
  await db.close();
});

check('findOrCreate() and upsert() at the same time make each row once', async () => {
  const db = open();
  const { Author } = define(db);
  const made = await Promise.all(Array.from({ length: 12 }, (_, n) => Author.findOrCreate({ where: { name: `raced ${n % 3}` }, defaults: { data: {} } })));
  assert.equal(made.filter(([, created]) => created).length, 3);
  await Promise.all(Array.from({ length: 10 }, (_, n) => Author.upsert({ name: 'raced 0', data: { n } })));
  assert.equal(await Author.count({ where: { name: { [Op.startsWith]: 'raced' } } }), 3);
  await db.close();
});

check('transactions: managed, isolated, nested, rolled back', async () => {
  const db = open();
  const { Author } = define(db);
  await assert.rejects(db.transaction(async (transaction) => {
    await Author.create({ name: 'never' }, { transaction });
    throw new Error('no');
  }), /no/);
  assert.equal(await Author.count({ where: { name: 'never' } }), 0);
  await db.transaction({ isolationLevel: Sequelize.Transaction.ISOLATION_LEVELS.SERIALIZABLE }, async (transaction) => {
    const [{ level }] = await db.query("select current_setting('transaction_isolation') as level", { transaction, type: 'SELECT' });
    assert.equal(level, 'serializable');
    await Author.findOrCreate({ where: { name: 'inside' }, transaction });
    await db.transaction({ transaction }, (nested) => Author.create({ name: 'nested' }, { transaction: nested }));
  });
  assert.equal(await Author.count({ where: { name: ['inside', 'nested'] } }), 2);
  await db.close();
});

check('many at once over the pool', async () => {
  const db = open();
  await Promise.all(Array.from({ length: 200 }, async (_, n) => {
    const [[row]] = await db.query('select $1::text as m', { bind: [`m${n}`] });
    assert.equal(row.m, `m${n}`);
  }));
  await db.close();
});

check('a time zone of its own and the settings it sends at the start', async () => {
  const [one, two] = [open({ timezone: '+05:00' }), open({ keepDefaultTimezone: true })];
  for (let n = 0; n < 5; n += 1) {
    const [[a]] = await one.query("select to_char(timestamptz '2026-01-01 00:00:00+00', 'HH24') as h");
    assert.equal(a.h, '05');
    const [[b]] = await two.query("select current_setting('standard_conforming_strings') as s");
    assert.equal(b.s, 'on');
  }
  await Promise.all([one.close(), two.close()]);
});

runAll();
