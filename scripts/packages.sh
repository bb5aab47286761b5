# Sourced by the other scripts: installs what is missing, with apt.
# shellcheck shell=bash

export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

sudo=()
if [ "$(id -u)" -ne 0 ]; then
	sudo=(sudo)
fi

# install_packages PACKAGE...: installs packages, and none of their services runs, now or after a boot: an sshd, fail2ban or dockerd of this
# machine would be reachable, or change its firewall.
install_packages() (
	policy=/usr/sbin/policy-rc.d
	# dpkg starts no service while this program exits with 101.
	if [ ! -e "$policy" ]; then
		trap '"${sudo[@]}" rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
		"${sudo[@]}" chmod 755 "$policy"
	elif "$policy" any start >/dev/null 2>&1 || [ "$?" -ne 101 ]; then
		echo "$policy lets packages start their services; install $* by hand" >&2
		exit 1
	fi
	echo "Installing $* ..." >&2
	"${sudo[@]}" apt-get update -qq >&2
	before=$(installed)
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
	installed | comm -13 <(echo "$before") - | while read -r package; do
		dpkg -L "$package" | sed -nE 's,.*/systemd/system/([^/@]+\.(service|socket|timer))$,\1,p'
	done | while read -r unit; do
		"${sudo[@]}" systemctl disable --quiet "$unit" 2>/dev/null || echo "cannot disable $unit: it may start at the next boot" >&2
	done
)

# The packages that are installed: those that were removed, but not purged, are not.
installed() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort; }

# need COMMAND=PACKAGE...: every command is there afterwards, or the script ends.
need() {
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	if [ "${#missing[@]}" -gt 0 ]; then
		install_packages "${missing[@]}"
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
