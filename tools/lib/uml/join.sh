#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# In a node: joins it to the cluster of nodes 1 to $GFS2_NODES. Done when all are members, the
# cluster is quorate and dlm_controld has joined it.
set -eu
net=10.77.0
tries=600	# a bound: that many looks, 0.2 s apart

give_up()
{
	echo "$1"
	tail -n 20 /var/log/corosync/corosync.log /var/log/dlm_controld/dlm_controld.log 2>/dev/null || true
	exit 1
}

# Looks until a command succeeds.
wait_for()
{
	what=$1
	shift
	n=0
	until "$@" >/dev/null 2>&1; do
		n=$((n + 1))
		[ "$n" -lt "$tries" ] || give_up "$what: not reached"
		sleep 0.2
	done
}

all_members()
{
	[ "$(corosync-quorumtool -l | grep -c "^ *[0-9].* $net\.\|^ *[0-9].* node[0-9]")" -eq "$GFS2_NODES" ]
}

# corosync.conf's parser wants every brace to end its line.
configuration()
{
	printf 'totem {\n version: 2\n cluster_name: g2\n transport: udpu\n}\nnodelist {\n'
	n=1
	while [ "$n" -le "$GFS2_NODES" ]; do
		printf ' node {\n  ring0_addr: %s.%d\n  nodeid: %d\n  name: node%d\n }\n' $net $n $n $n
		n=$((n + 1))
	done
	printf '}\nquorum {\n provider: corosync_votequorum\n'
	[ "$GFS2_NODES" -gt 2 ] || printf ' two_node: 1\n wait_for_all: 0\n'
	printf '}\nlogging {\n to_logfile: yes\n logfile: /var/log/corosync/corosync.log\n to_syslog: no\n}\n'
}

ip addr add "$net.$GFS2_NODE/24" dev vec0
ip link set vec0 up
mkdir -p /run/corosync /var/log/corosync /run/dlm_controld /var/log/dlm_controld
configuration >/etc/corosync/corosync.conf
corosync
wait_for 'corosync answers' corosync-quorumtool -s
if [ "${GFS2_REJOIN:-}" = yes ]; then
	# The others may be dead: enough of them is enough.
	wait_for 'a quorum' sh -c 'corosync-quorumtool -s | grep -q "^Quorate: *Yes"'
else
	wait_for "all $GFS2_NODES nodes are members" all_members
fi
dlm_controld --enable_fencing=0 --enable_plock=1
wait_for 'dlm_controld has joined' sh -c 'dlm_tool status | grep -q "^node $GFS2_NODE M"'
echo "node $GFS2_NODE has joined"
