/* A libnvidia-ml.so.1 whose GPUs follow power curves: the symbols that joulebook's NVML meter calls.
 *
 * The file that JOULEBOOK_SIM_NVML names says what there is (docs/reference/simulator.md); it is read again
 * whenever it changes, so errors can be switched on while a reader runs. Energies come from CLOCK_BOOTTIME
 * and the curve alone, so the truth is exact. Curves are those of curve.py and must agree with it.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_GPUS 32
#define MAX_PROCESSES 32
#define MAX_ERRORS 64
#define TEXT 96

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7,
       NO_DRIVER = 9, LOST = 15, UNKNOWN = 999 };

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; } Sample;
typedef struct { unsigned pid; unsigned long long memory; int sm; } Process;

typedef struct {
    int index, energy, mig, error;
    char name[TEXT], uuid[TEXT], kind[16];
    double number[5], limit_watts;
    int architecture, major, minor;
    int processes;
    Process process[MAX_PROCESSES];
} Gpu;

static struct {
    int gpus, errors, opened;
    long long t0_ns, reload_ns;
    double step_seconds;
    Gpu gpu[MAX_GPUS];
    struct { char function[TEXT]; int gpu, code; } error[MAX_ERRORS];
    struct timespec changed;
    long long size, inode;
} sim;

static double now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Energy of a square or sine from phase zero, in J. */
static double integral(const Gpu *g, double s) {
    if (!strcmp(g->kind, "square")) {
        double low = g->number[0], high = g->number[1], period = g->number[2], duty = g->number[3];
        double whole = floor(s / period), rest = s - whole * period;
        double at_high = whole * duty * period + fmin(rest, duty * period);
        return high * at_high + low * (s - at_high);
    }
    double omega = 2 * M_PI / g->number[2];
    return g->number[0] * s + g->number[1] / omega * (1 - cos(omega * s));
}

static double joules(const Gpu *g, double s) {
    if (!strcmp(g->kind, "constant")) return g->number[0] * s;
    double phase = g->number[!strcmp(g->kind, "square") ? 4 : 3];
    return integral(g, s + phase) - integral(g, phase);
}

static double watts(const Gpu *g, double s) {
    if (!strcmp(g->kind, "constant")) return g->number[0];
    if (!strcmp(g->kind, "square")) {
        double period = g->number[2];
        return fmod(s + g->number[4], period) < g->number[3] * period ? g->number[1] : g->number[0];
    }
    return g->number[0] + g->number[1] * sin(2 * M_PI * (s + g->number[3]) / g->number[2]);
}

/* Seconds since t0 at the last update of the sensors. */
static double updated_at(void) {
    double s = (now_ns(CLOCK_BOOTTIME) - (double)sim.t0_ns) / 1e9;
    if (s < 0) return 0;
    return sim.step_seconds > 0 ? floor(s / sim.step_seconds) * sim.step_seconds : s;
}

static int code_of(const char *word) {
    if (!strcmp(word, "lost")) return LOST;
    if (!strcmp(word, "unsupported")) return UNSUPPORTED;
    if (!strcmp(word, "permission")) return PERMISSION;
    if (!strcmp(word, "no-driver")) return NO_DRIVER;
    return atoi(word) > 0 ? atoi(word) : UNKNOWN;
}

static void set_architecture(Gpu *g, const char *word) {
    static const struct { const char *name; int architecture, major, minor; } known[] = {
        {"pascal", 4, 6, 0}, {"volta", 5, 7, 0}, {"turing", 6, 7, 5}, {"ga100", 7, 8, 0}, {"ampere", 7, 8, 6},
        {"ada", 8, 8, 9}, {"hopper", 9, 9, 0}, {"blackwell", 10, 10, 0}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(word, known[i].name)) {
            g->architecture = known[i].architecture;
            g->major = known[i].major;
            g->minor = known[i].minor;
        }
}

static void set_curve(Gpu *g, const char *text) {
    const char *colon = strchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof g->kind) return;
    memset(g->number, 0, sizeof g->number);
    g->number[3] = !strncmp(text, "square", 6) ? 0.5 : 0;
    snprintf(g->kind, sizeof g->kind, "%.*s", (int)(colon - text), text);
    const char *at = colon + 1;
    for (int i = 0; i < 5 && *at; i++) {
        char *end;
        g->number[i] = strtod(at, &end);
        if (end == at || *end != ',') break;
        at = end + 1;
    }
}

static void read_gpu(Gpu *g, const char *key, const char *value) {
    if (!strcmp(key, "name")) snprintf(g->name, TEXT, "%s", value);
    else if (!strcmp(key, "uuid")) snprintf(g->uuid, TEXT, "%s", value);
    else if (!strcmp(key, "curve")) set_curve(g, value);
    else if (!strcmp(key, "energy")) g->energy = !strcmp(value, "on");
    else if (!strcmp(key, "mig")) g->mig = !strcmp(value, "on");
    else if (!strcmp(key, "architecture")) set_architecture(g, value);
    else if (!strcmp(key, "limit_watts")) g->limit_watts = atof(value);
    else if (!strcmp(key, "error")) g->error = code_of(value);
    else if (!strcmp(key, "process") && g->processes < MAX_PROCESSES) {
        Process *p = &g->process[g->processes++];
        p->sm = -1;
        sscanf(value, "%u %llu %d", &p->pid, &p->memory, &p->sm);
    }
}

static Gpu *gpu_at(int index) {
    for (; sim.gpus <= index; sim.gpus++) {
        Gpu *g = &sim.gpu[sim.gpus];
        memset(g, 0, sizeof *g);
        g->index = sim.gpus;
        g->energy = 1;
        snprintf(g->name, TEXT, "Simulated GPU");
        snprintf(g->uuid, TEXT, "GPU-simulated-%d", sim.gpus);
        set_architecture(g, "hopper");
        set_curve(g, "constant:100");
    }
    return &sim.gpu[index];
}

static void read_line(char *line) {
    char key[TEXT] = "", word[TEXT] = "", code[TEXT] = "";
    int index = -1, at = 0;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "gpu %d %95s %n", &index, key, &at) >= 2 && at && index >= 0 && index < MAX_GPUS)
        read_gpu(gpu_at(index), key, line + at);
    else if (sscanf(line, "error %95s %95s %d", word, code, &index) >= 2 && sim.errors < MAX_ERRORS) {
        snprintf(sim.error[sim.errors].function, TEXT, "%s", word);
        sim.error[sim.errors].code = code_of(code);
        sim.error[sim.errors++].gpu = index;
    } else if (sscanf(line, "%95s %95s", key, word) == 2) {
        if (!strcmp(key, "t0_ns")) sim.t0_ns = atoll(word);
        else if (!strcmp(key, "step_ms")) sim.step_seconds = atof(word) / 1e3;
        else if (!strcmp(key, "reload_ns")) sim.reload_ns = atoll(word);
    }
}

/* Read the file again if it is another or has changed; what cannot be read leaves no driver. */
static int refresh(void) {
    const char *path = getenv("JOULEBOOK_SIM_NVML");
    struct stat st;
    if (!path || stat(path, &st)) return NO_DRIVER;
    static char last[4096];
    if (!strcmp(last, path) && st.st_mtim.tv_sec == sim.changed.tv_sec && st.st_mtim.tv_nsec == sim.changed.tv_nsec
        && st.st_size == sim.size && (long long)st.st_ino == sim.inode)
        return OK;
    FILE *file = fopen(path, "r");
    if (!file) return NO_DRIVER;
    snprintf(last, sizeof last, "%s", path);
    sim.gpus = sim.errors = 0;
    sim.reload_ns = 0;
    sim.step_seconds = 0.1;
    char line[512];
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
    sim.changed = st.st_mtim;
    sim.size = st.st_size;
    sim.inode = (long long)st.st_ino;
    return OK;
}

/* What stands in the way of a function, for one GPU or (NULL) for none in particular. */
static int fault(const char *function, const Gpu *g) {
    if (!sim.opened) return UNINITIALIZED;
    int failed = refresh();
    if (failed) return failed;
    if (g && g->error) return g->error;
    for (int i = 0; i < sim.errors; i++)
        if (!strcmp(sim.error[i].function, function) && (sim.error[i].gpu < 0 || (g && sim.error[i].gpu == g->index)))
            return sim.error[i].code;
    return OK;
}

#define CHECK(g) do { int failed = fault(__func__, g); if (failed) return failed; } while (0)

static int give_text(char *to, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return TOO_SMALL;
    strcpy(to, text);
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int failed = refresh();
    if (!failed) sim.opened++;
    return failed;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    if (!sim.opened) return UNINITIALIZED;
    sim.opened--;
    return OK;
}
const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID: return "Invalid Argument";
    case UNSUPPORTED: return "Not Supported";
    case PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case TOO_SMALL: return "Insufficient Size";
    case NO_DRIVER: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}
int nvmlSystemGetDriverVersion(char *to, unsigned size) { CHECK(NULL); return give_text(to, size, "999.99 simulated"); }
int nvmlDeviceGetCount_v2(unsigned *count) { CHECK(NULL); *count = (unsigned)sim.gpus; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **g) {
    CHECK(NULL);
    if (index >= (unsigned)sim.gpus) return INVALID;
    CHECK(&sim.gpu[index]);
    *g = &sim.gpu[index];
    return OK;
}
int nvmlDeviceGetUUID(Gpu *g, char *to, unsigned size) { CHECK(g); return give_text(to, size, g->uuid); }
int nvmlDeviceGetName(Gpu *g, char *to, unsigned size) { CHECK(g); return give_text(to, size, g->name); }
int nvmlDeviceGetArchitecture(Gpu *g, unsigned *architecture) {
    CHECK(g);
    *architecture = (unsigned)g->architecture;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Gpu *g, int *major, int *minor) {
    CHECK(g);
    *major = g->major;
    *minor = g->minor;
    return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(Gpu *g, unsigned long long *millijoules) {
    CHECK(g);
    if (!g->energy) return UNSUPPORTED;
    double s = updated_at(), from = 0;
    if (sim.reload_ns && now_ns(CLOCK_BOOTTIME) >= (double)sim.reload_ns) from = (double)(sim.reload_ns - sim.t0_ns) / 1e9;
    *millijoules = (unsigned long long)(fmax(0, joules(g, s) - joules(g, from)) * 1e3);
    return OK;
}
/* Ampere other than GA100, and newer: the mean of the last second; before: the instant. */
int nvmlDeviceGetPowerUsage(Gpu *g, unsigned *milliwatts) {
    CHECK(g);
    double s = updated_at(), since = s > 1 ? s - 1 : 0;
    int averaged = g->major > 8 || (g->major == 8 && g->minor > 0);
    double power = averaged && s > since ? (joules(g, s) - joules(g, since)) / (s - since) : watts(g, s);
    *milliwatts = (unsigned)(power * 1e3 + 0.5);
    return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(Gpu *g, unsigned *milliwatts) {
    CHECK(g);
    if (g->limit_watts <= 0) return UNSUPPORTED;
    *milliwatts = (unsigned)(g->limit_watts * 1e3);
    return OK;
}
int nvmlDeviceGetPowerManagementLimitConstraints(Gpu *g, unsigned *least, unsigned *most) {
    CHECK(g);
    if (g->limit_watts <= 0) return UNSUPPORTED;
    *least = (unsigned)(g->limit_watts * 250);
    *most = (unsigned)(g->limit_watts * 1e3);
    return OK;
}
int nvmlDeviceGetMigMode(Gpu *g, unsigned *current, unsigned *pending) {
    CHECK(g);
    if (g->major < 8 || (g->major == 8 && g->minor > 0)) return UNSUPPORTED;
    *current = *pending = (unsigned)g->mig;
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *g, unsigned *count, ProcessInfo *to) {
    CHECK(g);
    unsigned room = *count;
    *count = (unsigned)g->processes;
    if (*count > room) return TOO_SMALL;
    for (int i = 0; i < g->processes; i++)
        to[i] = (ProcessInfo){g->process[i].pid, g->process[i].memory, 0xFFFFFFFF, 0xFFFFFFFF};
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Gpu *g, unsigned *count, ProcessInfo *to) {
    (void)to;
    CHECK(g);
    *count = 0;
    return OK;
}
/* One sample for every process that was busy, taken now; unsupported under MIG and where no process tells. */
int nvmlDeviceGetProcessUtilization(Gpu *g, Sample *to, unsigned *count, unsigned long long last_seen_us) {
    CHECK(g);
    unsigned long long at_us = (unsigned long long)(now_ns(CLOCK_REALTIME) / 1e3);
    unsigned room = to ? *count : 0, n = 0, told = 0;
    if (g->mig) return UNSUPPORTED;
    for (int i = 0; i < g->processes; i++) {
        told += g->process[i].sm >= 0;
        if (g->process[i].sm <= 0 || at_us <= last_seen_us) continue;
        if (n < room) to[n] = (Sample){g->process[i].pid, at_us, (unsigned)g->process[i].sm, 0, 0, 0};
        n++;
    }
    *count = n;
    if (g->processes && !told) return UNSUPPORTED;
    if (!n) return NOT_FOUND;
    return n > room ? TOO_SMALL : OK;
}
