// node run.mjs MODULE
import { readFile } from "node:fs/promises";

const TINY_CRC = 0xd7423eb1; // of tests/steps.rs

const { instance } = await WebAssembly.instantiate(await readFile(process.argv[2]), {});
const m = instance.exports;
const good = m.check();
console.log(new TextDecoder().decode(new Uint8Array(m.memory.buffer, m.text(), m.text_len())));
if (!good) process.exit(1);
for (const reference of [false, true]) {
    const start = performance.now();
    const crc = m.picture(reference) >>> 0;
    const ms = (performance.now() - start).toFixed(1);
    console.log(`${reference ? "reference" : "simd128"}: picture 0x${crc.toString(16)}, ${ms} ms`);
    if (crc !== TINY_CRC) process.exit(1);
}
