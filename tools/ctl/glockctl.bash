# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for glockctl: commands, options, mounts, locks of the mount, events, tunables and their values, states.

_glockctl_locks()
{
	glockctl "${mount[@]}" dump 2>/dev/null | sed -n 's/^G: .* n:\([^ ]*\) .*/\1/p'
}

_glockctl_mounts()
{
	glockctl mounts 2>/dev/null | sed -n 's/^\(\/[^ ]*\) .*/\1/p'
}

# What may follow: words, and with a second argument names of files.
_glockctl_offer()
{
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"; [ -z "$2" ] || compgen -f -- "$cur")
}

# The last word of a list with commas.
_glockctl_list()
{
	local before=''

	case $cur in *,*) before=${cur%,*},; esac
	mapfile -t COMPREPLY < <(compgen -P "$before" -W "$1" -- "${cur##*,}")
}

_glockctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} mount=() i cmd='' first=0
	local commands='mounts dump top locks where explain map dio stats demote hold trace record show timeline break run get set repl breaks stops holds disconnect help'
	local events='glock_state glock_queue glock_promote glock_dequeue glock_demote_rq dlm_lock dlm_ast dlm_bast dio_begin dio_submit dio_hole
		dio_drain_begin dio_drain_end dio_upgrade dio_buffered dio_end log_flush map data_io break_hit break_go glock_hold'
	local tunables='short_dio dio_mtime dio_mtime_interval dio_rest commit min_hold cache events data_events fault'

	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-m|-s) mount=("${COMP_WORDS[i]}" "${COMP_WORDS[i+1]}"); ((i++)) ;;
		-*) ;;
		*) cmd=${COMP_WORDS[i]}; first=$i; break ;;
		esac
	done
	case $cmd:$prev in
	:-m)
		mapfile -t COMPREPLY < <(compgen -W "$(_glockctl_mounts)" -- "$cur")
		# A bind mount, or a place on a mount.
		((${#COMPREPLY[@]})) || mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return ;;
	:-s) mapfile -t COMPREPLY < <(compgen -f -- "${cur:-/run/gfs2-fuse/}"); return ;;
	trace:-e|record:-e) _glockctl_list "$events"; return ;;
	top:-k) _glockctl_offer 'requests transitions bounces waiters direct state name'; return ;;
	set:short_dio) _glockctl_offer 'drain async fail precheck blockdev'; return ;;
	set:dio_mtime) _glockctl_offer 'deferred strict'; return ;;
	set:dio_rest) _glockctl_offer 'direct buffered'; return ;;
	set:events|set:data_events) _glockctl_offer 'on off'; return ;;
	set:fault) _glockctl_offer none; return ;;
	break:dio) _glockctl_offer 'hole drain upgrade buffered'; return ;;
	break:dlm) _glockctl_offer 'request ast bast'; return ;;
	esac
	case $cmd in
	'') _glockctl_offer "$commands -m -s --json --help --version" ;;
	help) _glockctl_offer "$commands info step continue finish delete wait timeout release" ;;
	get) _glockctl_offer "$tunables stats" ;;
	set)
		if ((COMP_CWORD == first + 1)); then
			_glockctl_offer "-s -u $tunables"
		elif [ "$prev" = -s ]; then
			_glockctl_offer "$tunables"
		fi ;;
	locks) _glockctl_offer '--waiting --json' ;;
	breaks|stops|holds) _glockctl_offer 'all --json' ;;
	demote|hold)
		if ((COMP_CWORD > first + 1)); then
			_glockctl_offer 'UN SH DF EX'
		else
			_glockctl_offer "$(_glockctl_locks)" files
		fi ;;
	break)
		case $prev in
		hole|drain|upgrade|buffered|request|ast|bast|-*) _glockctl_offer "$(_glockctl_locks)" files ;;
		break) _glockctl_offer "any dio dlm -c -p -n -t -1 $(_glockctl_locks)" files ;;
		*) _glockctl_offer "UN->SH UN->DF UN->EX SH->UN SH->DF SH->EX DF->UN DF->SH DF->EX EX->UN EX->SH EX->DF any dio dlm $(_glockctl_locks)" files ;;
		esac ;;
	top) _glockctl_offer '-d -k -f -n -l --once --batch --json' ;;
	run) _glockctl_offer '--keep --check' files ;;
	show) _glockctl_offer '--json' files ;;
	record) _glockctl_offer '-n -t -e -g -p -r -s' files ;;
	trace)
		if [ "$prev" = -g ]; then
			_glockctl_offer "$(_glockctl_locks)" files
		else
			_glockctl_offer '-n -t -e -g -p -r -s --json'
		fi ;;
	timeline) _glockctl_offer '-o -g --linear --json' files ;;
	explain) _glockctl_offer "-t $(_glockctl_locks)" files ;;
	dump|where|map|dio|stats) _glockctl_offer "--json $(_glockctl_locks)" files ;;
	esac
}
complete -o filenames -F _glockctl glockctl
