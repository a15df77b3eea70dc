# The page: its module in node and in a browser, whose text must be the program's.
web() {
  step "a page"
  debian_rust
  node_js
  needs chromium
  local out=$PWD/target/web ask="Tell me a story about a dog." server
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
  for density in 1 0.5; do
    # The browser's clock may run ahead of the page and close it before it is done.
    for try in 1 2 3 4 5; do
      timeout 120 chromium --headless --no-sandbox --disable-gpu --virtual-time-budget=60000 --dump-dom \
        "http://127.0.0.1:${port#port }/index.html?prompt=${ask// /+}&temperature=0&most=24&density=$density" \
        > "$out/page-$density" 2> "$out/browser"
      if grep -q 'data-state="done"' "$out/page-$density"; then break; fi
      echo "try $try: not done yet"
    done
    grep -E 'id="(answer|status)"' "$out/page-$density"
    grep -q 'data-state="done">24 tokens' "$out/page-$density"
  done
  python3 - "$out/expected" "$out/page-1" <<'END'
import html, sys
text, page = (open(name, encoding="utf-8").read() for name in sys.argv[1:])
assert f'id="answer">{html.escape(text[:-1].lstrip(), quote=False)}<' in page, text
END
  kill $server
  trap - EXIT
}
