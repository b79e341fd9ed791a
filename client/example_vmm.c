/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest VMM that migrates with libpostcopy: one vCPU, 1 MiB, and a guest that writes and
 * checks its memory for ever. For authors of VMMs, to be read from top to bottom; the part about
 * libpostcopy is source_run() and destination_run(). It builds with the public header alone:
 *
 *     cc -o example_vmm example_vmm.c $(pkg-config --cflags --libs libpostcopy) -pthread
 *
 * With the two daemons running, in this order, on the source (S) and the destination (D):
 *
 *     postcopyctl new-id; postcopyctl token TOKENFILE; mkfifo PIPE
 *     S: example_vmm source ID TOKENFILE PIPE IDENTITY     and a line on stdin: stop the guest
 *     D: postcopyctl start ID --source HOST:PORT --peer NAME --token-file TOKENFILE
 *     D: example_vmm destination ID TOKENFILE PIPE         and a line on stdin: the end
 *
 * IDENTITY and NAME are the names in the certificates of D's and S's daemon. PIPE stands for the
 * VMM's own channel: how the vCPU's and the devices' state travels is no business of libpostcopy.
 * A last argument names another socket than the daemons' usual ones.
 */
#define _GNU_SOURCE 1 /* memfd_create() */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <postcopy.h>

#define MEMORY_BYTES (1U << 20)
#define PAGE_BYTES 4096U
#define GUEST_ENTRY 0x1000U
#define MACHINE_CHECK_VECTOR 18U
#define PORT_PASS 0x10  /* the guest has been in all its pages: how often */
#define PORT_LOST 0x14  /* it took a machine check: the address */
#define PORT_WRONG 0x18 /* a page is not as it left it: the address */

/*
 * The guest, in real mode: page P is the segment P * 256. Pages 2 to 255 are full of one number,
 * P and how often it came by. At a machine check it notes the page in a table, and keeps away
 * from it. Table, stack and code are in its memory, too, and migrate like the rest.
 */
extern const uint8_t guest_code[], guest_machine_check[], guest_code_end[];
__asm__(".pushsection .rodata\n.code16\n"
        "guest_code:\n"
        "	movl %cr4, %eax; orl $0x40, %eax; movl %eax, %cr4\n" /* MCE: else it dies of one */
        "	cld; xorl %ebp, %ebp\n"                              /* passes */
        "1:	movw $0x200, %bx\n"                                  /* the first page */
        "2:	movzbw %bh, %si; cmpb $0, 0x600(%si); jne guest_next\n" /* in the table: lost */
        "	movw %bx, %es; movzwl %bx, %eax; shll $16, %eax; movw %bp, %ax\n"
        "	testw %bp, %bp; jz 3f\n" /* nothing to check yet */
        "	xorw %di, %di; movw $1024, %cx; repe scasl; jne 4f\n"
        "3:	incw %ax; xorw %di, %di; movw $1024, %cx; rep stosl\n"
        "guest_next:\n"
        "	addw $0x100, %bx; jnz 2b\n"
        "	incl %ebp; movl %ebp, %eax; outl %eax, $0x10; jmp 1b\n"
        "4:	movzwl %bx, %eax; shll $4, %eax; outl %eax, $0x18; hlt\n"
        "guest_machine_check:\n"
        "	movzbw %bh, %si; movb $1, 0x600(%si)\n"
        "	movl $0x402, %ecx; rdmsr; outl %eax, $0x14\n"         /* MC0_ADDR: where */
        "	xorl %eax, %eax; xorl %edx, %edx; decl %ecx; wrmsr\n" /* MC0_STATUS */
        "	movl $0x17a, %ecx; wrmsr\n" /* MCG_STATUS: done, the next one may come */
        "	movw %sp, %si; movw $(guest_next - guest_code + 0x1000), (%si); iretw\n"
        "guest_code_end:\n.code64\n.popsection\n");

static struct vm {
	uint8_t *memory;
	int memory_fd, vcpu_fd;
	struct kvm_run *run;
	pthread_t thread;
	atomic_bool stop;
	atomic_uint passes;        /* 0: none in this VMM yet */
	struct postcopy *exported; /* NULL on the destination */
} vm;

static char text[384]; /* libpostcopy's own words: what was wrong, and what to do about it */

_Noreturn static void die(const char *what, const char *why)
{
	fprintf(stderr, "example_vmm: %s: %s\n", what, why);
	exit(1);
}

static int must(int result, const char *what)
{
	if (result < 0)
		die(what, strerror(errno));
	return result;
}

/* The same for libpostcopy, which returns a negative errno, and mostly a sentence. */
static void check(int result, const char *what)
{
	if (result < 0)
		die(what, text[0] ? text : strerror(-result));
}

/*
 * Map the guest's memory, and no more: on the destination nobody may touch it before the attach
 * (no MAP_POPULATE, no firmware loaded, no huge pages cleared in advance). A page that is there
 * already would be taken for the guest's.
 */
static void memory_map(void)
{
	vm.memory_fd = must(memfd_create("guest", MFD_CLOEXEC), "memfd_create");
	must(ftruncate(vm.memory_fd, MEMORY_BYTES), "ftruncate");
	vm.memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vm.memory_fd, 0);
	if (vm.memory == MAP_FAILED)
		die("mmap", strerror(errno));
}

/* Nothing here touches the memory: KVM takes a page when the guest does. */
static void machine_new(void)
{
	struct kvm_userspace_memory_region slot = {0, 0, 0, MEMORY_BYTES, (uintptr_t)vm.memory};
	uint64_t mcg_cap = (1U << 24) | 1; /* software may recover; one bank of errors */
	int kvm_fd = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm_fd = must(ioctl(kvm_fd, KVM_CREATE_VM, 0UL), "KVM_CREATE_VM");
	int run_bytes = must(ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0UL), "KVM_GET_VCPU_MMAP_SIZE");

	must(ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL), "KVM_SET_TSS_ADDR");
	must(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vm.vcpu_fd = must(ioctl(vm_fd, KVM_CREATE_VCPU, 0UL), "KVM_CREATE_VCPU");
	must(ioctl(vm.vcpu_fd, KVM_X86_SETUP_MCE, &mcg_cap), "KVM_X86_SETUP_MCE");
	vm.run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm.vcpu_fd, 0);
	if (vm.run == MAP_FAILED)
		die("mmap of the vCPU", strerror(errno));
}

static void guest_load(void)
{
	struct kvm_regs regs = {.rip = GUEST_ENTRY, .rsp = PAGE_BYTES, .rflags = 2};
	uintptr_t code = (uintptr_t)guest_code;
	uint16_t handler = (uint16_t)(GUEST_ENTRY + ((uintptr_t)guest_machine_check - code));
	struct kvm_sregs sregs;

	memcpy(vm.memory + GUEST_ENTRY, guest_code, (uintptr_t)guest_code_end - code);
	memcpy(vm.memory + (size_t)MACHINE_CHECK_VECTOR * 4, &handler, sizeof(handler));
	must(ioctl(vm.vcpu_fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	must(ioctl(vm.vcpu_fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(vm.vcpu_fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/*
 * A page is lost when memory failed under it, here or on the host before: then the thread that
 * runs the vCPU gets SIGBUS, and KVM_RUN returns. The handler only notes the address; nothing
 * else is safe there. Were it the VMM itself that touched the page (a device that reads a buffer
 * of the guest), going on would only raise the signal again. A whole VMM fails that I/O.
 */
static _Thread_local volatile sig_atomic_t in_guest, lost_pending;
static _Thread_local uint8_t *volatile lost_address;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!in_guest || info->si_code != BUS_MCEERR_AR)
		signal(sig, SIG_DFL);
	lost_address = info->si_addr;
	lost_pending = 1;
}

/*
 * Tell the guest, as hardware would; it is the guest who decides what that page was to it. The
 * bits are in Intel's manual, 3B, chapter 16. Never replace the page by zeros instead.
 */
static void machine_check(void)
{
	uint64_t address = (uint64_t)(lost_address - vm.memory) & ~(uint64_t)(PAGE_BYTES - 1);
	struct postcopy_range range = {.guest_physical_address = address, .length = PAGE_BYTES};
	struct kvm_x86_mce mce = {
	        .status = UINT64_C(0xbd80000000000134), /* uncorrected, act now: a data load */
	        .addr = address,
	        .misc = (2U << 6) | 12, /* addr is physical, and good for 4 KiB */
	        .mcg_status = 7,        /* in progress; the guest may go on where it was */
	};

	lost_pending = 0;
	if (address >= MEMORY_BYTES)
		die("SIGBUS", "outside the guest's memory");
	must(ioctl(vm.vcpu_fd, KVM_X86_SET_MCE, &mce), "KVM_X86_SET_MCE");
	/* The source's agent finds lost pages itself when it reads them; what the VMM knows
	 * already, it should say. On the destination it is the daemon who knows. */
	if (vm.exported)
		check(postcopy_report_poison(vm.exported, &range, 1, text, sizeof(text)),
		      "report poison");
}

/* What it wrote to a port. True: stop now, between two passes, when registers are all it has. */
static bool guest_says(void)
{
	bool stop = atomic_load(&vm.stop);
	uint32_t value;

	memcpy(&value, (const uint8_t *)vm.run + vm.run->io.data_offset, sizeof(value));
	if (vm.run->io.port == PORT_WRONG) {
		fprintf(stderr, "example_vmm: page %#x is not as the guest left it\n", value);
		exit(2);
	}
	if (vm.run->io.port == PORT_LOST)
		printf("lost %#x\n", value);
	else if (atomic_exchange(&vm.passes, value) == 0)
		printf("first-pass %u\n", value);
	return stop && vm.run->io.port == PORT_PASS;
}

static void *vcpu_main(void *unused)
{
	for (bool stop = false; !stop;) {
		int ret, error;

		in_guest = 1;
		ret = ioctl(vm.vcpu_fd, KVM_RUN, 0UL);
		error = errno;
		in_guest = 0;
		if (ret < 0 && error != EINTR && !lost_pending)
			die("KVM_RUN", strerror(error));
		if (ret == 0 && vm.run->exit_reason == KVM_EXIT_IO)
			stop = guest_says();
		else if (ret == 0 && vm.run->exit_reason != KVM_EXIT_INTR)
			die("KVM_RUN", "the guest has done what this VMM does not know");
		if (lost_pending)
			machine_check();
	}
	return unused;
}

/*
 * This guest comes out often. One that does not is made to by kvm_run's immediate_exit and a
 * signal; a vCPU that waits for a missing page comes out for a signal, too.
 */
static void vcpu_stop_on_line(void)
{
	for (int c = getchar(); c != '\n' && c != EOF;)
		c = getchar();
	atomic_store(&vm.stop, true);
	pthread_join(vm.thread, NULL);
	/* The guest's OUT is over only when the vCPU is entered again: enter, and leave at once. */
	vm.run->immediate_exit = 1;
	if (ioctl(vm.vcpu_fd, KVM_RUN, 0UL) == 0 || errno != EINTR)
		die("KVM_RUN", "the vCPU has not left at once");
	printf("stopped %u\n", atomic_load(&vm.passes));
}

/* What is not memory; for another guest also MSRs, FPU, interrupt controllers, devices. */
struct state {
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_vcpu_events events;
};

/*
 * The migration begins here. One region for each slot of memory, the same on both hosts but for the address in this process.
 */
static struct postcopy_region memory_region(void)
{
	return (struct postcopy_region){
	        .name = "ram0",
	        .guest_physical_address = 0,
	        .address = vm.memory,
	        .length = MEMORY_BYTES,
	        .page_size = PAGE_BYTES,
	        .backing = POSTCOPY_BACKING_MEMFD,
	        .mode = POSTCOPY_MODE_MISSING,
	        .memory_fd = vm.memory_fd, /* -1 if the memory has none: 0 is a descriptor */
	};
}

/* The file has hexadecimal digits; the token is what they stand for. */
static size_t token_read(const char *path, uint8_t *ret)
{
	FILE *file = fopen(path, "re");
	size_t n = 0;

	if (!file)
		die(path, strerror(errno));
	while (n < POSTCOPY_TOKEN_MAX && fscanf(file, "%2hhx", &ret[n]) == 1)
		n++;
	fclose(file);
	return n;
}

static void source_run(const char *id, const char *token_file, const char *pipe,
                       const char *identity, const char *socket_path)
{
	struct postcopy_region region = memory_region();
	uint8_t token[POSTCOPY_TOKEN_MAX];
	struct postcopy_export_params params = {.socket_path = socket_path,
	                                        .token = token,
	                                        .token_len = token_read(token_file, token),
	                                        .peer_identity = identity,
	                                        .regions = &region,
	                                        .n_regions = 1};
	struct state state;
	int fd;

	check(postcopy_uuid_parse(id, params.migration_id), "ID");
	guest_load();
	/* 1. Export, while the guest runs: nothing is served yet, so this costs it nothing. */
	check(postcopy_export(&params, &vm.exported, text, sizeof(text)), "export");
	check(-pthread_create(&vm.thread, NULL, vcpu_main, NULL), "pthread_create");
	/* 2. Stop all that writes the memory: vCPUs, and devices with what they have in flight. */
	vcpu_stop_on_line();
	must(ioctl(vm.vcpu_fd, KVM_GET_SREGS, &state.sregs), "KVM_GET_SREGS");
	must(ioctl(vm.vcpu_fd, KVM_GET_REGS, &state.regs), "KVM_GET_REGS");
	must(ioctl(vm.vcpu_fd, KVM_GET_VCPU_EVENTS, &state.events), "KVM_GET_VCPU_EVENTS");
	/* 3. Freeze: from here on the memory does not change, and pages are served. */
	check(postcopy_freeze(vm.exported, text, sizeof(text)), "freeze");
	printf("frozen\n");
	/* 4. The state goes over last: who has it may run the guest, and then this one must not.
	 * To keep the guest instead, postcopy_withdraw() first, and run it only if that is 0. */
	fd = must(open(pipe, O_WRONLY | O_CLOEXEC), pipe);
	if (write(fd, &state, sizeof(state)) != (ssize_t)sizeof(state) || close(fd) < 0)
		die(pipe, "the state was not written");
	/* 5. Stay: most of the guest's memory is here until the destination has everything. An
	 * agent that is started again in between takes over by itself; the wait goes on. */
	check(postcopy_wait(vm.exported, POSTCOPY_STATE_BIT(POSTCOPY_STATE_RELEASED), -1),
	      "the export has not come to its end");
	check(postcopy_close(vm.exported, 0), "close");
	printf("released\n");
}

static void destination_run(const char *id, const char *token_file, const char *pipe,
                            const char *socket_path)
{
	struct postcopy_region region = memory_region();
	/* Raw: the daemon negotiates and registers. Not one for user mode only, for it is the
	 * kernel, in KVM_RUN, that meets the missing pages. */
	int fd, uffd = postcopy_uffd_open(0);
	uint8_t token[POSTCOPY_TOKEN_MAX];
	struct postcopy_attach_params params = {.socket_path = socket_path,
	                                        .token = token,
	                                        .token_len = token_read(token_file, token),
	                                        .uffds = &uffd,
	                                        .n_uffds = 1,
	                                        .regions = &region,
	                                        .n_regions = 1};
	struct postcopy_status status;
	struct postcopy *migration;
	struct state state;

	check(uffd, "userfaultfd");
	check(postcopy_uuid_parse(id, params.migration_id), "ID");
	/* 1. Attach, before anything touches the memory. After that a touch waits for the page,
	 * whoever it is: so let no thread that must not wait (an event loop) touch it. */
	check(postcopy_attach(&params, &migration, text, sizeof(text)), "attach");
	/* The handle has a duplicate of the uffd, and the daemon another. While one is open a
	 * missing page can only wait: also while postcopyd is started again (the VMM notices
	 * nothing), or is dead. When the last one closes, missing pages turn into zeros. */
	close(uffd);
	/* 2. The state, which says that the source stands still. */
	fd = must(open(pipe, O_RDONLY | O_CLOEXEC), pipe);
	if (read(fd, &state, sizeof(state)) != (ssize_t)sizeof(state) || close(fd) < 0)
		die(pipe, "that is not a vCPU's state");
	must(ioctl(vm.vcpu_fd, KVM_SET_SREGS, &state.sregs), "KVM_SET_SREGS");
	must(ioctl(vm.vcpu_fd, KVM_SET_REGS, &state.regs), "KVM_SET_REGS");
	must(ioctl(vm.vcpu_fd, KVM_SET_VCPU_EVENTS, &state.events), "KVM_SET_VCPU_EVENTS");
	/* 3. Run. The guest waits for what it touches, and the rest comes by itself. */
	check(-pthread_create(&vm.thread, NULL, vcpu_main, NULL), "pthread_create");
	printf("running\n");
	/* 4. When it is "completed", every page is here, or lost. Anything else that is final
	 * leaves the guest without memory, and means its end. (Event loop: postcopy_fd().) */
	if (postcopy_wait(migration, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), -1) < 0) {
		postcopy_get_status(migration, &status);
		die(status.connected ? status.name : "postcopyd has gone", status.text);
	}
	printf("completed %u\n", atomic_load(&vm.passes));
	/* 5. Only now close. Lost pages stay lost, for they are marks in this process's page
	 * tables: do not discard them (MADV_DONTNEED), nor let them be collapsed into huge
	 * pages; postcopy_collapse(), before the close, knows which ones can be. */
	check(postcopy_close(migration, 0), "close");
	vcpu_stop_on_line();
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
	bool source = argc >= 6 && argc <= 7 && !strcmp(argv[1], "source");

	if (!source && (argc < 5 || argc > 6 || strcmp(argv[1], "destination") != 0))
		die("usage", "source ID TOKENFILE PIPE IDENTITY [SOCKET] | "
		             "destination ID TOKENFILE PIPE [SOCKET]");
	setvbuf(stdout, NULL, _IOLBF, 0);
	must(sigaction(SIGBUS, &action, NULL), "sigaction");
	memory_map();
	machine_new();
	if (source)
		source_run(argv[2], argv[3], argv[4], argv[5], argv[6]);
	else
		destination_run(argv[2], argv[3], argv[4], argv[5]);
	return 0;
}
