# The pages: what they name exists, and their programs run.

paths() {
  step "paths that pages name"
  python3 .ci/paths.py
  step "the table of features"
  python3 .ci/features.py
  step "the steps of the hosted checks"
  local name
  for name in "${EVERY[@]}"; do
    grep -qE "(run|step:).*\\b$name\\b" .github/workflows/ci.yml || { echo "$name is not in .github/workflows/ci.yml"; exit 1; }
  done
}

# The shell lines of the README, on a small model that takes the place of a downloaded one: calibrating SmolLM2 takes many
# minutes. Its Rust program is a doctest of the tests (`test`), its C program runs with the C interface (`capi`).
readme() {
  step "the README's shell lines"
  [ "$(wc -l < README.md)" -le 200 ] || { echo "the README is longer than 200 lines"; exit 1; }
  cargo build --release --quiet
  python3 .ci/readme.py target/release/shadowllm tests/vectors/brown-opt target/ci/readme
}

# The first hour of a newcomer: a chat in a terminal, pipes, every help page.
first_hour() {
  step "the first hour"
  local venv=$PWD/target/ci/screen-venv
  python_tools "$venv" pexpect==4.9.0 pyte==0.8.2
  cargo build --release --quiet
  "$venv/bin/python" .ci/first_hour.py target/release/shadowllm target/ci/first-hour
}

# Answers held to JSON schemas, judged by a validator that is not ours.
schemas() {
  step "answers held to JSON schemas"
  local venv=$PWD/target/ci/schemas-venv
  python_tools "$venv" jsonschema==4.26.0
  cargo build --release --quiet
  "$venv/bin/python" .ci/schemas.py target/release/shadowllm host/models/story.sllm
}

# Prompts by the chat templates of some seventy models, with tools, byte for byte those of the Hugging Face library. The
# templates are their makers', so they are fetched (in a source package that tests its own engine on them), not copied.
templates() {
  step "prompts by real templates"
  local venv=$PWD/target/ci/templates-venv folder=$PWD/target/ci/templates package=llama_cpp_python-0.3.36 made
  python_tools "$venv" transformers==5.24.0 jinja2==3.1.6 scikit-build-core==1.1.2 cmake==4.4.5
  # What the expected prompts are made of: where one of these changes, they are made again.
  made=$(echo $package; cat "$venv/complete"; sha256sum < tests/vectors/chat/make.py)
  if [ "$(cat "$folder/made" 2> /dev/null)" != "$made" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    # Without build isolation: nothing is built.
    "$venv/bin/pip" download --quiet --no-deps --no-build-isolation --no-binary :all: -d "$folder" "${package/_cpp_python-/-cpp-python==}"
    tar xzf "$folder/$package.tar.gz" -C "$folder" --strip-components=5 --wildcards '*/vendor/llama.cpp/models/templates/*.jinja'
    rm "$folder/$package.tar.gz"
    "$venv/bin/python" tests/vectors/chat/make.py "$folder"
    echo "$made" > "$folder/made"
  fi
  SHADOWLLM_TEMPLATES=$folder cargo test --release -p shadowllm-host --test templates -- --ignored --nocapture
}
