# Other machines: emulated, in node, or compiled only.

# The tests on emulated 64-bit Arm: plain NEON, dot products, everything. Those that calibrate are left out (the
# autograd library takes longer to build than all else), and those that fetch. The kernels run on all three, whole
# models on the last, with dot products, plain NEON and portable code.
arm() {
  step "aarch64 under emulation"
  debian_rust
  emulated() {
    local cpu=$1
    shift
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="timeout 600 qemu-aarch64-static -cpu $cpu" \
      debian_cargo test "$@" --release --target aarch64-unknown-linux-gnu --target-dir target/arm
  }
  # The test of the formats walks through tables in portable code, for minutes under emulation: it is left out.
  for cpu in cortex-a53 cortex-a76 max; do emulated $cpu -p shadowllm-core --lib --test kernels --test needs; done
  emulated max -p shadowllm-tests --no-default-features --tests
}

# One program (tests/no_std) on every machine: what it writes must be the same.
bare() {
  step "the same tokens and logits on every machine"
  debian_rust
  emulators
  node_js
  local out=$PWD/target/no_std program=shadowllm-no-std
  mkdir -p "$out"
  (
    cd tests/no_std
    cargo build --release --features least --target-dir "$out/host"
    debian_cargo build --release --target aarch64-unknown-linux-gnu --target-dir "$out/arm"
    for target in thumbv7em-none-eabihf aarch64-unknown-none wasm32-unknown-unknown; do
      RUSTC_BOOTSTRAP=1 debian_cargo build --release -Zbuild-std=core --target $target --target-dir "$out/bare"
    done
    RUSTC_BOOTSTRAP=1 debian_cargo build --profile small --features least --bin least -Zbuild-std=core \
      --target thumbv7em-none-eabihf --target-dir "$out/bare"
  )
  "$out/host/release/$program" scalar > "$out/expected"
  cat "$out/expected"
  # NAME COMMAND...: runs, and compares what does not depend on the machine.
  same() {
    local name=$1
    shift
    timeout 300 "$@" < /dev/null > "$out/$name" || { cat "$out/$name"; echo "$name: failed"; exit 1; }
    diff <(grep -v '^#' "$out/expected") <(grep -v '^#' "$out/$name") || { echo "$name: not the same"; exit 1; }
    printf '%-22s the same; %s\n' "$name" "$(grep -e '^# kernels' -e '^# stack' "$out/$name" | sed 's/^# //' | paste -sd' ')"
  }
  for isa in avx2 avx512; do
    if grep -q "${isa/512/512_vnni}" /proc/cpuinfo; then same x86-64-$isa "$out/host/release/$program" $isa; fi
  done
  for cpu in cortex-a53 cortex-a76 max; do
    for isa in scalar neon neon-dotprod neon-i8mm; do
      case $cpu-$isa in cortex-a53-neon-dotprod | cortex-a53-neon-i8mm | cortex-a76-neon-i8mm) continue ;; esac
      same linux-$cpu-$isa qemu-aarch64-static -cpu $cpu "$out/arm/aarch64-unknown-linux-gnu/release/$program" $isa
    done
  done
  # An instruction a nanosecond, so that clocks count instructions.
  local machine="-display none -monitor none -serial null -icount shift=0 -chardev stdio,id=text -semihosting-config enable=on,target=native,chardev=text"
  for cpu in cortex-a53 cortex-a76 max; do
    same bare-$cpu qemu-system-aarch64 -M virt -m 64M -nic none -cpu $cpu $machine -kernel "$out/bare/aarch64-unknown-none/release/$program"
  done
  same bare-cortex-m4 qemu-system-arm -M mps2-an386 $machine -kernel "$out/bare/thumbv7em-none-eabihf/release/$program"
  # Places in `Isa::ALL`.
  same wasm-scalar node tests/no_std/wasm.mjs "$out/bare/wasm32-unknown-unknown/release/$program.wasm" 0
  same wasm-simd128 node tests/no_std/wasm.mjs "$out/bare/wasm32-unknown-unknown/release/$program.wasm" 6
  # A damaged image is an error and a status, on a board too.
  local firmware=$out/bare/thumbv7em-none-eabihf/release/$program at
  at=$(grep -obUaP 'SLLMIMG\x00' "$firmware" | tail -1 | cut -d: -f1)
  cp "$firmware" "$out/damaged"
  printf X | dd of="$out/damaged" bs=1 seek=$((at + 70)) conv=notrunc status=none
  if timeout 120 qemu-system-arm -M mps2-an386 $machine -kernel "$out/damaged" < /dev/null > "$out/damaged.txt"; then
    echo "a damaged image was accepted"; exit 1
  fi
  grep 'error: the image.s header is damaged' "$out/damaged.txt"
  # The kernels, which take most of a token's time, call nothing that panics.
  aarch64-linux-gnu-objdump -dC --no-show-raw-insn "$out/bare/aarch64-unknown-none/release/$program" | awk '
    /^[0-9a-f]+ <.*>:$/ { f = $2; kernel = f ~ /kernels::table::[a-z0-9_]*_table::/; n += kernel }
    kernel && /\tbl?\t.*<core::(panicking|slice|option|result)/ { print f, $0; bad = 1 }
    END { print n " kernels without panics"; exit bad || n < 100 }'
  size -A "$out/bare/thumbv7em-none-eabihf/release/$program"
  least "$out"
}

# The smallest firmware: the same tokens from the kernels of one model alone, within its size, without formatted text.
least() {
  local out=$1 least=$1/bare/thumbv7em-none-eabihf/small/least text
  for run in "$out/host/release/least" "qemu-system-arm -M mps2-an386 $machine -kernel $least"; do
    timeout 300 $run < /dev/null | tee "$out/least" | grep -v '^#' \
      | diff <(grep -E '^(off|shadow) ' "$out/expected" | sed 's/ logits.*//') - || { echo "$run: not the same"; exit 1; }
  done
  grep '^# stack' "$out/least"
  size -A "$least"
  text=$(size -A "$least" | awk '$1 == ".text" { print $2 }')
  [ "${text:?}" -le 131072 ] || { echo "the smallest firmware has grown to $text bytes of code"; exit 1; }
  # Of the code for panics only calls of the program's own handler are left, ten bytes each.
  nm -CS "$least" | awk '$4 ~ /^core::(panicking|slice::index|option|result)::/ { print; if ($2 > "00000010") bad = 1 } END { exit bad }'
  if nm -C "$least" | grep -E '^[0-9a-f]+ . (core::(fmt|num::imp)::|<.* as core::fmt::(Display|Debug)>)'; then echo "formatting of text was linked"; exit 1; fi
}

# The kernels as WebAssembly, with the standard library's source (there is none for it, ready-made).
wasm() {
  step "WebAssembly"
  debian_rust
  node_js
  RUSTFLAGS=-Ctarget-feature=+simd128 RUSTC_BOOTSTRAP=1 \
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="timeout 300 node $PWD/tests/no_std/wasm.mjs" \
    debian_cargo test -p shadowllm-core --test kernels --release -Zbuild-std=std,panic_abort \
    --target wasm32-unknown-unknown --target-dir target/wasm
}

# The core, compiled (not run) for phones and boards.
targets() {
  step "other targets"
  debian_rust
  RUSTC_BOOTSTRAP=1 debian_cargo build --release -p shadowllm-core -Zbuild-std=core --target-dir target/targets \
    --target thumbv7em-none-eabihf --target aarch64-unknown-none --target wasm32-unknown-unknown \
    --target riscv64gc-unknown-none-elf --target aarch64-linux-android --target aarch64-apple-ios
}
