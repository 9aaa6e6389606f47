/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * steps: the hands of a scenario (tools/ctl/hands.c) as a program, for tools/conform and tests.
 */
#define _GNU_SOURCE
#include "../../tools/ctl/hands.c"

int main(void)
{
	return hands_run(stdin, stdout);
}
