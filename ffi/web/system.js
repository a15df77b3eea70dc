// What the module asks of a system (WASI, preview 1): the time and random bytes. There are no files here.

/** The imports of a compiled module, for `WebAssembly.instantiate`.
 * @param {WebAssembly.Module} module @param {() => WebAssembly.Memory} memory the instance's, when it is called */
export function system(module, memory) {
  const [DONE, NO_FILE, UNKNOWN] = [0, 8, 52];
  const view = () => new DataView(memory().buffer);
  const known = {
    clock_time_get(clock, precision, at) {
      const now = clock === 0 ? Date.now() : performance.now();
      view().setBigUint64(at >>> 0, BigInt(Math.round(now * 1e6)), true);
      return DONE;
    },
    random_get(at, length) {
      const most = 65536; // at once
      for (let done = 0; done < length; done += most) {
        crypto.getRandomValues(new Uint8Array(memory().buffer, (at >>> 0) + done, Math.min(most, length - done)));
      }
      return DONE;
    },
    environ_sizes_get(count, bytes) {
      view().setUint32(count >>> 0, 0, true);
      view().setUint32(bytes >>> 0, 0, true);
      return DONE;
    },
    environ_get: () => DONE,
    fd_prestat_get: () => NO_FILE,
    sched_yield: () => DONE,
    proc_exit(status) {
      throw new WebAssembly.RuntimeError(`it ended with ${status}`);
    },
  };
  const names = WebAssembly.Module.imports(module).map(({ name }) => name);
  return { wasi_snapshot_preview1: Object.fromEntries(names.map((name) => [name, known[name] ?? (() => UNKNOWN)])) };
}
