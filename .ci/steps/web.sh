# The page: its module in node and in a browser, whose text must be the program's.
web() {
  step "a page"
  debian_rust
  node_js
  needs chromium
  local out=$PWD/target/web ask="Tell me a story about a dog." server port
  (cd ffi/web && RUSTC_BOOTSTRAP=1 debian_cargo build --release -Zbuild-std=core --target-dir "$out/build")
  cp ffi/web/*.js ffi/web/index.html "$out/build/wasm32-unknown-unknown/release/shadowllm_web.wasm" "$out"
  cp host/models/story.sllm "$out/model.sllm"
  cargo build --release
  timeout 120 node ffi/web/test.mjs "$out/shadowllm_web.wasm" "$out/model.sllm" target/release/shadowllm
  target/release/shadowllm run "$out/model.sllm" --greedy -n 24 -p "$ask" > "$out/expected" 2>/dev/null
  python3 -u -m http.server --bind 127.0.0.1 --directory "$out" 0 > "$out/server" 2>&1 &
  server=$!
  trap 'kill $server' EXIT
  until port=$(grep -o 'port [0-9]*' "$out/server"); do sleep 0.1; done
  python_tools "$PWD/target/ci/page-venv" playwright==1.65.2
  timeout 300 "$PWD/target/ci/page-venv/bin/python" .ci/page.py "http://127.0.0.1:${port#port }/index.html" "$out/model.sllm" \
    "$out/expected" "$out"
  kill $server
  trap - EXIT
}
