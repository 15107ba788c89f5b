// node run.mjs MODULE
import { readFile } from "node:fs/promises";

const TINY_CRC = 0xf1b45b6f; // of tests/steps.rs

const { instance } = await WebAssembly.instantiate(await readFile(process.argv[2]), {});
const m = instance.exports;
const good = m.check();
console.log(new TextDecoder().decode(new Uint8Array(m.memory.buffer, m.text(), m.text_len())));
if (!good) process.exit(1);
for (const reference of [false, true]) {
    let best = Infinity; // the first runs meet the engine's compiler
    for (let i = 0; i < 9; i++) {
        const start = performance.now();
        const crc = m.picture(reference) >>> 0;
        best = Math.min(best, performance.now() - start);
        if (crc !== TINY_CRC) {
            console.log(`picture 0x${crc.toString(16)}`);
            process.exit(1);
        }
    }
    console.log(`${reference ? "reference" : "simd128"}: picture as pinned, ${best.toFixed(1)} ms`);
}
