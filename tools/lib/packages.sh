# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by the tools: the Debian packages they need.
#
# packages_need SET... installs what is missing of the named sets, without questions, and says what
# it does; 1 if something is still missing afterwards (it has said what).

packages_build='gcc libc6-dev linux-libc-dev clang libclang-rt-14-dev meson ninja-build pkg-config
	libfuse3-dev liburing-dev libdlm-dev zlib1g-dev libreadline-dev libncurses-dev systemtap-sdt-dev libcmocka-dev libaio-dev'
packages_run='fuse3 gfs2-utils python3 util-linux mount procps'
packages_tests='linux-source-6.1 tmux'
packages_cluster='user-mode-linux corosync dlm-controld iproute2 kmod'
packages_bench='fio fuse2fs ntfs-3g linux-source-6.1'
packages_model='spin'
packages_xfstests='acl attr bc dbench dump e2fsprogs fio gawk iproute2 kmod libcap2-bin openssl perl psmisc quota
	uuid-runtime xfsprogs'

package_installed()
{
	dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

packages_missing()
{
	missing=
	for set in "$@"; do
		eval "names=\$packages_$set"
		for name in $names; do
			package_installed "$name" || missing="$missing $name"
		done
	done
}

packages_need()
{
	packages_missing "$@"
	[ -z "$missing" ] && return 0
	if ! command -v apt-get >/dev/null; then
		echo "missing, and there is no apt-get to install them with:$missing" >&2
		return 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "missing, and only root can install them:$missing" >&2
		return 1
	fi
	echo "installing:$missing"
	packages_log=$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086 # a list of words
	if ! apt-get install -y --no-install-recommends $missing >"$packages_log" 2>&1; then
		# Lists that were never fetched or are old: once more with new ones.
		apt-get update >>"$packages_log" 2>&1
		apt-get install -y --no-install-recommends $missing >>"$packages_log" 2>&1
	fi
	packages_missing "$@"
	if [ -n "$missing" ]; then
		tail -n 15 "$packages_log" >&2
		echo "could not be installed:$missing" >&2
	fi
	rm -f "$packages_log"
	[ -z "$missing" ]
}
