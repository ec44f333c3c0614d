/*
 * Compiles profiles with libseccomp, for comparison. A part of the tests only.
 *
 *   peer programs IN OUT    IN: blocks of lines, numbers in hexadecimal
 *                               profile DEFAULT NATIVE OPTIMISE
 *                               arch TOKEN
 *                               rule ACTION NAME [INDEX:OPERATOR:A:B ...]
 *                               end
 *                           OUT: for each block the number of instructions (32 bits), then the instructions
 *   peer numbers IN OUT     IN: lines "TOKEN NAME"; OUT: lines "TOKEN NAME NUMBER", the number decimal
 *   peer names IN OUT       IN: lines "TOKEN FIRST LAST"; OUT: lines "TOKEN NAME NUMBER" of all numbers that have a name
 *
 * A name that libseccomp does not know is skipped, as runtimes do. Everything else that it refuses ends the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what, const char *line, int code)
{
	fprintf(stderr, "%s: %s: %s\n", what, line, strerror(-code));
	exit(1);
}

static void write_program(scmp_filter_ctx context, int out)
{
	uint32_t count = 0;
	off_t start = lseek(out, 0, SEEK_END);
	if (write(out, &count, sizeof count) != sizeof count)
		fail("writing", "the length", -errno);
	int code = seccomp_export_bpf(context, out);
	if (code < 0)
		fail("seccomp_export_bpf", "", code);
	off_t end = lseek(out, 0, SEEK_END);
	count = (uint32_t)((end - start - (off_t)sizeof count) / 8);
	if (pwrite(out, &count, sizeof count, start) != sizeof count)
		fail("writing", "the length", -errno);
}

static void add_rule(scmp_filter_ctx context, char *line)
{
	char copy[4096];
	snprintf(copy, sizeof copy, "%s", line);
	strtok(copy, " \n");
	uint32_t action = (uint32_t)strtoul(strtok(NULL, " \n"), NULL, 16);
	int number = seccomp_syscall_resolve_name(strtok(NULL, " \n"));
	if (number == __NR_SCMP_ERROR)
		return;
	struct scmp_arg_cmp conditions[6];
	unsigned count = 0;
	for (char *word; (word = strtok(NULL, " \n"));) {
		unsigned index, operator;
		uint64_t a, b;
		if (sscanf(word, "%x:%x:%" SCNx64 ":%" SCNx64, &index, &operator, &a, &b) != 4)
			fail("reading", word, -EINVAL);
		conditions[count++] = (struct scmp_arg_cmp){ index, operator, a, b };
	}
	int code = seccomp_rule_add_array(context, action, number, count, conditions);
	if (code < 0 && code != -EEXIST)
		fail("seccomp_rule_add_array", line, code);
}

static void programs(FILE *in, int out)
{
	char line[4096];
	scmp_filter_ctx context = NULL;
	while (fgets(line, sizeof line, in)) {
		uint32_t action, native, token;
		int optimise, code = 0;
		if (sscanf(line, "profile %" SCNx32 " %" SCNx32 " %d", &action, &native, &optimise) == 3) {
			context = seccomp_init(action);
			if (!context)
				fail("seccomp_init", line, -EINVAL);
			if (native != seccomp_arch_native()) {
				code = seccomp_arch_remove(context, SCMP_ARCH_NATIVE);
				if (code == 0)
					code = seccomp_arch_add(context, native);
			}
			if (code == 0)
				code = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, (uint32_t)optimise);
		} else if (sscanf(line, "arch %" SCNx32, &token) == 1) {
			code = seccomp_arch_add(context, token);
			if (code == -EEXIST)
				code = 0;
		} else if (strncmp(line, "rule ", 5) == 0) {
			add_rule(context, line);
		} else if (strncmp(line, "end", 3) == 0) {
			write_program(context, out);
			seccomp_release(context);
		}
		if (code < 0)
			fail("libseccomp", line, code);
	}
}

static void numbers(FILE *in, int out)
{
	uint32_t token;
	char name[128];
	FILE *to = fdopen(out, "w");
	while (fscanf(in, "%" SCNx32 " %127s", &token, name) == 2)
		fprintf(to, "%" PRIx32 " %s %d\n", token, name, seccomp_syscall_resolve_name_arch(token, name));
	fclose(to);
}

static void names(FILE *in, int out)
{
	uint32_t token;
	int first, last;
	FILE *to = fdopen(out, "w");
	while (fscanf(in, "%" SCNx32 " %x %x", &token, &first, &last) == 3)
		for (int number = first; number <= last; number++) {
			char *name = seccomp_syscall_resolve_num_arch(token, number);
			if (name)
				fprintf(to, "%" PRIx32 " %s %d\n", token, name, number);
			free(name);
		}
	fclose(to);
}

int main(int count, char **words)
{
	if (count != 4)
		return 2;
	FILE *in = fopen(words[2], "r");
	int out = open(words[3], O_CREAT | O_RDWR | O_TRUNC, 0644);
	if (!in || out < 0)
		fail("opening", words[2], -errno);
	if (strcmp(words[1], "programs") == 0)
		programs(in, out);
	else if (strcmp(words[1], "names") == 0)
		names(in, out);
	else
		numbers(in, out);
	return 0;
}
