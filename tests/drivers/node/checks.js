// What every program here does: runs its checks in order and says which passed.
const assert = require('node:assert/strict');

const checks = [];
const check = (claim, run) => checks.push([claim, run]);

const runAll = async () => {
  for (const [claim, run] of checks) {
    try {
      await run();
    } catch (error) {
      console.error(`failed: ${claim}`);
      console.error(error);
      process.exit(1);
    }
    console.log(`passed: ${claim}`);
  }
  console.log('all passed');
  process.exit(0);
};

// Waits until `condition` gives something true.
const until = async (what, condition) => {
  const end = Date.now() + 10_000;
  while (Date.now() < end) {
    const got = await condition();
    if (got) return got;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`not in time: ${what}`);
};

module.exports = { assert, check, runAll, until };
