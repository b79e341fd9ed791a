/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest VMM that migrates with libpostcopy: one vCPU, 1 MiB of memory, and a guest of
 * forty instructions that counts in every page. Read it from top to bottom.
 *
 *   example_vmm source      ID TOKENFILE STATE PEER  runs the guest until a line comes on stdin,
 *                                                    and lets it go
 *   example_vmm destination ID TOKENFILE STATE       goes on with it
 *
 * ID and TOKENFILE are the migration's (`postcopyctl new-id`, `postcopyctl token`), PEER is the
 * name in the destination's certificate, and STATE is a FIFO: how the vCPU's state travels is
 * the VMM's own matter. Between the two somebody says
 * `postcopyctl start ID --source HOST:PORT --peer NAME --token-file TOKENFILE` to the
 * destination's postcopyd. POSTCOPY_SOCKET names another socket than the daemons' usual ones.
 */
#define _GNU_SOURCE 1 /* memfd_create() */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
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
#define GUEST_ENTRY 0x1000
#define CR4_MCE (1U << 6)
#define MC_VECTOR 18
#define PORT_PASS 0x10  /* the guest has been in all pages: 32 bits, how often */
#define PORT_WRONG 0x14 /* a page is not what it left there: 16 bits, the page's segment */
#define PORT_LOST 0x18  /* a machine check: 16 bits, as above */

/*
 * The guest, in real mode. Page p is segment p * 0x100; from page 2 on the first and the last
 * word are p and the number of passes, checked and raised in each pass. A page that gives a
 * machine check is told of and passed over.
 */
extern const uint8_t guest_begin[], guest_handler[], guest_end[];
__asm__(".pushsection .rodata\n.code16\n"
        "guest_begin:\n"
        "	xorl %ebp, %ebp\n"
        "	movw $0x200, %bx\n"
        "1:	movw %bx, %ds\n" /* before the first pass: the page's number, and 0 */
        "	movzwl %bx, %eax\n"
        "	shll $16, %eax\n"
        "	movl %eax, 0\n"
        "	movl %eax, 4092\n"
        "	addw $0x100, %bx\n"
        "	jnz 1b\n"
        "2:	movw $0x200, %bx\n"
        "3:	movw %bx, %ds\n"
        "	movzwl %bx, %eax\n"
        "	shll $16, %eax\n"
        "	addl %ebp, %eax\n"
        "	cmpl %eax, 0\n"
        "	jne 5f\n"
        "	cmpl %eax, 4092\n"
        "	jne 5f\n"
        "	incl %eax\n"
        "	movl %eax, 0\n"
        "	movl %eax, 4092\n"
        "guest_next:\n"
        "	addw $0x100, %bx\n"
        "	jnz 3b\n"
        "	incl %ebp\n"
        "	movl %ebp, %eax\n"
        "	outl %eax, $0x10\n"
        "	jmp 2b\n"
        "5:	movw %bx, %ax\n"
        "	outw %ax, $0x14\n"
        "	hlt\n"
        "guest_handler:\n" /* of the machine check */
        "	movw %bx, %ax\n"
        "	outw %ax, $0x18\n"
        "	movl $0x17a, %ecx\n" /* MCG_STATUS: done with it, another may come */
        "	xorl %eax, %eax\n"
        "	xorl %edx, %edx\n"
        "	wrmsr\n"
        "	movw %sp, %si\n"
        "	movw $guest_next - guest_begin + 0x1000, %ss:(%si)\n"
        "	iretw\n"
        "guest_end:\n"
        ".code64\n.popsection\n");

struct vm {
	uint8_t *memory;
	int memory_fd, kvm, vm, vcpu;
	struct kvm_run *run;
	uint32_t passes;
};

/* What is not memory. A VMM of a real guest has much more of it. */
struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events; /* a machine check that is not delivered yet */
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "example_vmm: %s: %s\n", what, why);
	exit(1);
}

static long must(long result, const char *what)
{
	if (result < 0)
		die(what, strerror(errno));
	return result;
}

/*
 * Memory that nobody has touched: a memfd, mapped and no more. On the destination that is what
 * it must stay until postcopy_attach() has returned.
 */
static void vm_memory(struct vm *vm)
{
	vm->memory_fd = (int)must(memfd_create("example", MFD_CLOEXEC), "memfd_create");
	must(ftruncate(vm->memory_fd, MEMORY_BYTES), "ftruncate");
	vm->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vm->memory_fd, 0);
	if (vm->memory == MAP_FAILED)
		die("mmap", strerror(errno));
}

static void vm_create(struct vm *vm)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEMORY_BYTES,
	                                           .userspace_addr = (uintptr_t)vm->memory};
	uint64_t mcg_cap = (1U << 24) | 1; /* software may recover; one bank */
	struct kvm_sregs sregs;
	long len;

	vm->kvm = (int)must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	vm->vm = (int)must(ioctl(vm->kvm, KVM_CREATE_VM, 0UL), "KVM_CREATE_VM");
	must(ioctl(vm->vm, KVM_SET_TSS_ADDR, 0xfffbd000UL), "KVM_SET_TSS_ADDR");
	must(ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vm->vcpu = (int)must(ioctl(vm->vm, KVM_CREATE_VCPU, 0UL), "KVM_CREATE_VCPU");
	len = must(ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL), "KVM_GET_VCPU_MMAP_SIZE");
	vm->run = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED)
		die("mmap of the vCPU", strerror(errno));
	must(ioctl(vm->vcpu, KVM_X86_SETUP_MCE, &mcg_cap), "KVM_X86_SETUP_MCE");
	must(ioctl(vm->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.cr4 |= CR4_MCE; /* the guest takes machine checks; without this one is its end */
	must(ioctl(vm->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
}

static void guest_load(struct vm *vm)
{
	struct kvm_regs regs = {.rip = GUEST_ENTRY, .rsp = 0x1000, .rflags = 2};
	uint16_t handler = (uint16_t)(GUEST_ENTRY + (guest_handler - guest_begin));

	memcpy(vm->memory + GUEST_ENTRY, guest_begin, (size_t)(guest_end - guest_begin));
	memcpy(vm->memory + MC_VECTOR * 4, &handler, sizeof(handler));
	must(ioctl(vm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/*
 * A page that is lost, on this host or, by way of postcopyd, on the one before, is a SIGBUS for
 * the thread that runs the vCPU. The handler notes where; whoever called KVM_RUN does the rest.
 */
static volatile sig_atomic_t bus_pending;
static void *volatile bus_address;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (bus_pending || info->si_code != BUS_MCEERR_AR)
		signal(sig, SIG_DFL); /* not a lost page, or the VMM itself has touched one */
	bus_address = info->si_addr;
	bus_pending = 1;
}

/* The guest learns of it as on real hardware. The bits: Intel's manual 3B, 16.3; KVM hands them on. */
static void machine_check(struct vm *vm)
{
	uint64_t gpa = (uint64_t)((uint8_t *)bus_address - vm->memory);
	struct kvm_x86_mce mce = {
	        .status = UINT64_C(0xbd80000000000134), /* valid, uncorrected, action required */
	        .addr = gpa,
	        .misc = (2U << 6) | 12, /* addr is a physical address, of a page of 4 KiB */
	        .mcg_status = 7,        /* in progress; the instruction pointer is the access */
	};

	bus_pending = 0;
	if (gpa >= MEMORY_BYTES)
		die("SIGBUS", "outside the guest's memory");
	printf("sigbus %#llx\n", (unsigned long long)gpa);
	must(ioctl(vm->vcpu, KVM_X86_SET_MCE, &mce), "KVM_X86_SET_MCE");
}

/* What the guest wrote to a port. */
static void guest_says(struct vm *vm)
{
	const uint8_t *data = (const uint8_t *)vm->run + vm->run->io.data_offset;
	uint32_t value = 0;

	memcpy(&value, data, vm->run->io.size);
	if (vm->run->io.port == PORT_LOST)
		printf("lost %#x\n", value << 4);
	if (vm->run->io.port == PORT_WRONG)
		die("the guest", "a page is not what it left there");
	if (vm->run->io.port != PORT_PASS)
		return;
	vm->passes = value;
	printf("pass %u\n", value);
}

/* Until the guest has made so many passes, or a line comes. */
static void vcpu_run(struct vm *vm, uint32_t passes, bool until_a_line)
{
	struct pollfd input = {.fd = until_a_line ? STDIN_FILENO : -1, .events = POLLIN};

	while (vm->passes < passes && poll(&input, 1, 0) == 0) {
		if (ioctl(vm->vcpu, KVM_RUN, 0UL) < 0 && errno != EINTR)
			die("KVM_RUN", strerror(errno));
		if (bus_pending)
			machine_check(vm);
		else if (vm->run->exit_reason == KVM_EXIT_IO)
			guest_says(vm);
		else if (vm->run->exit_reason != KVM_EXIT_INTR)
			die("KVM_RUN", "the guest did something that this VMM does not know");
	}
}

/* An OUT is done when the vCPU is entered again: enter it, and leave at once. */
static void vcpu_save(struct vm *vm, struct vcpu_state *s)
{
	vm->run->immediate_exit = 1;
	if (ioctl(vm->vcpu, KVM_RUN, 0UL) == 0 || errno != EINTR)
		die("KVM_RUN", "it did not stop");
	must(ioctl(vm->vcpu, KVM_GET_REGS, &s->regs), "KVM_GET_REGS");
	must(ioctl(vm->vcpu, KVM_GET_SREGS, &s->sregs), "KVM_GET_SREGS");
	must(ioctl(vm->vcpu, KVM_GET_VCPU_EVENTS, &s->events), "KVM_GET_VCPU_EVENTS");
}

static void vcpu_load(struct vm *vm, struct vcpu_state *s)
{
	must(ioctl(vm->vcpu, KVM_SET_SREGS, &s->sregs), "KVM_SET_SREGS");
	must(ioctl(vm->vcpu, KVM_SET_REGS, &s->regs), "KVM_SET_REGS");
	must(ioctl(vm->vcpu, KVM_SET_VCPU_EVENTS, &s->events), "KVM_SET_VCPU_EVENTS");
}

/* ---- the migration ---- */

static char text[384]; /* of every function below: what was wrong, and what to do about it */

static void done(int result, const char *what)
{
	if (result < 0)
		die(what, text[0] ? text : strerror(-result));
}

/* Both sides say the same of it. A VMM with several memory slots has as many regions. */
static struct postcopy_region memory_region(const struct vm *vm)
{
	return (struct postcopy_region){
	        .name = "ram0",
	        .address = vm->memory,
	        .length = MEMORY_BYTES,
	        .page_size = PAGE_BYTES,
	        .backing = POSTCOPY_BACKING_MEMFD,
	        .mode = POSTCOPY_MODE_MISSING,
	        .memory_fd = vm->memory_fd,
	};
}

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

static void source(struct vm *vm, char **argv)
{
	struct postcopy_region region = memory_region(vm);
	uint8_t token[POSTCOPY_TOKEN_MAX];
	struct postcopy_export_params params = {
	        .socket_path = getenv("POSTCOPY_SOCKET"),
	        .token = token,
	        .token_len = token_read(argv[3], token),
	        .peer_identity = argv[5],
	        .regions = &region,
	        .n_regions = 1,
	};
	struct postcopy *handle;
	struct vcpu_state state;
	int fd;

	vm_create(vm);
	guest_load(vm);
	done(postcopy_uuid_parse(argv[2], params.migration_id), "ID");
	done(postcopy_export(&params, &handle, text, sizeof(text)), "export");
	vcpu_run(vm, UINT32_MAX, true); /* nothing is served before the freeze */
	vcpu_save(vm, &state);
	/* From here on the guest's memory must not change any more. */
	done(postcopy_freeze(handle, text, sizeof(text)), "freeze");
	fd = (int)must(open(argv[4], O_WRONLY | O_CLOEXEC), argv[4]);
	if (write(fd, &state, sizeof(state)) != (ssize_t)sizeof(state))
		die(argv[4], "the state was not written");
	printf("frozen\n");
	/* Half of the guest is here until the destination has everything. */
	done(postcopy_wait(handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_RELEASED), -1), "wait");
	done(postcopy_close(handle, 0), "close");
}

static void destination(struct vm *vm, char **argv)
{
	struct postcopy_region region = memory_region(vm);
	int fd, uffd = postcopy_uffd_open(0);
	uint8_t token[POSTCOPY_TOKEN_MAX];
	struct postcopy_attach_params params = {
	        .socket_path = getenv("POSTCOPY_SOCKET"),
	        .token = token,
	        .token_len = token_read(argv[3], token),
	        .uffds = &uffd,
	        .n_uffds = 1,
	        .regions = &region,
	        .n_regions = 1,
	};
	struct postcopy *handle;
	struct vcpu_state state;

	done(uffd, "userfaultfd");
	done(postcopy_uuid_parse(argv[2], params.migration_id), "ID");
	/*
	 * First of all: a page that is touched before would be zeros. From here on who
	 * touches a missing page waits, be it the VMM, KVM or a device. If postcopyd is
	 * started again meanwhile, the guest waits a little; nothing is to be done here.
	 */
	done(postcopy_attach(&params, &handle, text, sizeof(text)), "attach");
	vm_create(vm);
	fd = (int)must(open(argv[4], O_RDONLY | O_CLOEXEC), argv[4]);
	if (read(fd, &state, sizeof(state)) != (ssize_t)sizeof(state))
		die(argv[4], "that is no vCPU's state");
	vcpu_load(vm, &state);
	printf("running\n");
	vcpu_run(vm, (uint32_t)state.regs.rbp + 3, false);
	done(postcopy_wait(handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), -1), "wait");
	/* Until here the library has held the uffd for us: without one, missing pages are zeros. */
	done(postcopy_close(handle, 0), "close");
	vcpu_run(vm, vm->passes + 1, false); /* what is lost stays lost */
	printf("completed\n");
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
	struct vm vm = {.passes = 0};

	setvbuf(stdout, NULL, _IOLBF, 0);
	must(sigaction(SIGBUS, &action, NULL), "sigaction");
	if (argc == 6 && !strcmp(argv[1], "source"))
		vm_memory(&vm), source(&vm, argv);
	else if (argc == 5 && !strcmp(argv[1], "destination"))
		vm_memory(&vm), destination(&vm, argv);
	else
		die("usage", "source ID TOKENFILE STATE PEER | destination ID TOKENFILE STATE");
	return 0;
}
