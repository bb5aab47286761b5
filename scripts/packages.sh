# Sourced by the other scripts: installs what is missing, with apt.
# shellcheck shell=bash

export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

sudo=()
if [ "$(id -u)" -ne 0 ]; then
	sudo=(sudo)
fi

# need COMMAND=PACKAGE...: every command is there afterwards, or the script ends.
need() {
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	if [ "${#missing[@]}" -gt 0 ]; then
		echo "Installing ${missing[*]} ..." >&2
		"${sudo[@]}" apt-get update -qq >&2
		"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	fi
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || {
			echo "${pair%%=*} is missing, and package ${pair#*=} does not bring it" >&2
			exit 1
		}
	done
	command -v cargo >/dev/null || {
		echo "The Rust toolchain is missing: https://rustup.rs" >&2
		exit 1
	}
}
