# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for glockctl: commands, options, mounts, locks of the mount, states.

_glockctl_locks()
{
	glockctl "${mount[@]}" dump 2>/dev/null | sed -n 's/^G: .* n:\([^ ]*\) .*/\1/p'
}

_glockctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} mount=() i cmd=
	local commands='mounts dump top locks where explain map dio stats demote hold trace record show timeline break run get set repl'

	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-m|-s) mount=("${COMP_WORDS[i]}" "${COMP_WORDS[i+1]}"); ((i++)) ;;
		-*) ;;
		*) cmd=${COMP_WORDS[i]}; break ;;
		esac
	done
	case $prev in
	-m) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
	-s) mapfile -t COMPREPLY < <(compgen -f -- "${cur:-/run/gfs2-fuse/}"); return ;;
	esac
	case $cmd in
	'') mapfile -t COMPREPLY < <(compgen -W "$commands -m -s --json --help --version" -- "$cur") ;;
	get|set) mapfile -t COMPREPLY < <(compgen -W "$(glockctl "${mount[@]}" get 2>/dev/null | cut -d' ' -f1) stats" -- "$cur") ;;
	demote|hold)
		mapfile -t COMPREPLY < <(compgen -W "UN SH DF EX $(_glockctl_locks)" -- "$cur"; compgen -f -- "$cur") ;;
	break)
		mapfile -t COMPREPLY < <(compgen -W "any dio dlm hole drain upgrade buffered request ast bast -c -p -n -t -1 $(_glockctl_locks)" -- "$cur"
			compgen -f -- "$cur") ;;
	top) mapfile -t COMPREPLY < <(compgen -W "-d -k -f -n -l --once --batch requests transitions bounces waiters direct state name" -- "$cur") ;;
	run) mapfile -t COMPREPLY < <(compgen -W "--keep --check" -- "$cur"; compgen -f -- "$cur") ;;
	record|show) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	timeline) mapfile -t COMPREPLY < <(compgen -W "-o -g --linear --json" -- "$cur"; compgen -f -- "$cur") ;;
	dump|where|explain|map|dio|stats|trace)
		mapfile -t COMPREPLY < <(compgen -W "$(_glockctl_locks)" -- "$cur"; compgen -f -- "$cur") ;;
	esac
}
complete -o filenames -F _glockctl glockctl
