/*
 * Runs a program as if on a kernel that lacks some system calls: they answer ENOSYS, for it and all that it starts. A part of the tests
 * only.
 *
 *   OLD_KERNEL_LACKS="openat2 clone3 ..."  OLD_KERNEL_RUNS=/path/to/program  old-kernel ARGUMENTS...
 *
 * It calls neither prctl(PR_SET_NO_NEW_PRIVS) nor anything else that the program could notice; so it needs root.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 32

int main(int count, char **words)
{
	const char *program = getenv("OLD_KERNEL_RUNS"), *list = getenv("OLD_KERNEL_LACKS");
	struct sock_filter filter[2 * MOST + 2];
	char copy[1024];
	unsigned short length = 0;

	(void)count;
	if (!program || !list)
		return 2;
	snprintf(copy, sizeof copy, "%s", list);
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (char *name = strtok(copy, " "); name && length < 2 * MOST; name = strtok(NULL, " ")) {
		int number = seccomp_syscall_resolve_name(name);
		if (number < 0) {
			fprintf(stderr, "old-kernel: %s is no system call\n", name);
			return 2;
		}
		filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1);
		filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
	}
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog whole = { length, filter };
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole) != 0) {
		perror("old-kernel: seccomp");
		return 2;
	}
	unsetenv("OLD_KERNEL_RUNS");
	unsetenv("OLD_KERNEL_LACKS");
	words[0] = (char *)program;
	execv(program, words);
	perror(program);
	return 2;
}
