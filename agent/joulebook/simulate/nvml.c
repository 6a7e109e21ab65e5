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
#define MAX_PROCESSES 128
#define MAX_SLICES 8
#define MAX_WINDOWS 8
#define MAX_ERRORS 64
#define TEXT 96

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7,
       NO_DRIVER = 9, LOST = 15, UNKNOWN = 999 };

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; } Sample;
typedef struct { unsigned field, scope; long long time_us, latency_us; unsigned kind; int code; unsigned long long value; } FieldValue;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned multiprocessors, copy, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
                 unsigned long long memory_mib; } Attributes;
typedef struct { unsigned id, p2p, slices, instances, multiprocessors, copy, decoders, encoders, jpegs, ofas;
                 unsigned long long memory_mib; } Profile;

/* sm: percent, -1 where it is not told.  slice: index, -1 for the whole board.  client: of MPS, in MPS's list only. */
typedef struct { unsigned pid; unsigned long long memory; int sm, slice, client; } Process;
typedef struct { char uuid[TEXT]; int compute_slices; } Slice;
/* Boottime ns; to is 0 where it never ends. */
typedef struct { long long from, to; } Window;

typedef struct {
    int index, energy, power, fields, mig, virtual, error, utilisation;
    char name[TEXT], uuid[TEXT], pci[16], kind[16];
    double number[5], limit_watts;
    int architecture, major, minor;
    int processes, slices, most_slices, losses;
    Process process[MAX_PROCESSES];
    Slice slice[MAX_SLICES];
    Window lost[MAX_WINDOWS];
} Gpu;

static struct {
    int gpus, errors, opened, nonsense;
    unsigned epoch;
    long long t0_ns, reload_ns, opened_ns, sample_ms;
    Window down;
    char driver[TEXT];
    double step_seconds;
    Gpu gpu[MAX_GPUS];
    struct { char function[TEXT]; int gpu, code; } error[MAX_ERRORS];
    struct timespec changed;
    long long size, inode;
} sim;

/* A handle is no pointer: it names a board, or a slice of one, as of one nvmlInit and one life of the board. */
typedef uintptr_t Handle;
#define HANDLE(epoch, life, gpu, slice) \
    ((Handle)(0x5eedULL << 48 | (Handle)((epoch) & 0xffff) << 32 | (Handle)((life) & 0xff) << 16 \
              | (Handle)((gpu) & 0xff) << 8 | (Handle)(((slice) + 1) & 0xff)))

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
    else if (!strcmp(key, "power")) g->power = !strcmp(value, "on");
    else if (!strcmp(key, "fields")) g->fields = !strcmp(value, "on");
    else if (!strcmp(key, "mig")) g->mig = !strcmp(value, "on");
    else if (!strcmp(key, "virtual")) g->virtual = !strcmp(value, "on");
    else if (!strcmp(key, "pci")) snprintf(g->pci, sizeof g->pci, "%s", value);
    else if (!strcmp(key, "utilisation")) g->utilisation = atoi(value);
    else if (!strcmp(key, "slices")) g->most_slices = atoi(value);
    else if (!strcmp(key, "architecture")) set_architecture(g, value);
    else if (!strcmp(key, "limit_watts")) g->limit_watts = atof(value);
    else if (!strcmp(key, "error")) g->error = code_of(value);
    else if (!strcmp(key, "slice") && g->slices < MAX_SLICES) {
        Slice *part = &g->slice[g->slices++];
        sscanf(value, "%95s %d", part->uuid, &part->compute_slices);
    } else if (!strcmp(key, "lost") && g->losses < MAX_WINDOWS) {
        Window *w = &g->lost[g->losses++];
        w->to = 0;
        sscanf(value, "%lld %lld", &w->from, &w->to);
    } else if ((!strcmp(key, "process") || !strcmp(key, "client")) && g->processes < MAX_PROCESSES) {
        Process *p = &g->process[g->processes++];
        p->sm = p->slice = -1;
        p->client = !strcmp(key, "client");
        sscanf(value, "%u %llu %d %d", &p->pid, &p->memory, &p->sm, &p->slice);
    }
}

static Gpu *gpu_at(int index) {
    for (; sim.gpus <= index; sim.gpus++) {
        Gpu *g = &sim.gpu[sim.gpus];
        memset(g, 0, sizeof *g);
        g->index = sim.gpus;
        g->energy = g->power = g->fields = 1;
        g->utilisation = -1;
        g->most_slices = 7;
        snprintf(g->pci, sizeof g->pci, "0000:%02x:00.0", 0x10 + sim.gpus);
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
        else if (!strcmp(key, "sample_ms")) sim.sample_ms = atoll(word);
        else if (!strcmp(key, "nonsense")) sim.nonsense = atoi(word);
        else if (!strcmp(key, "driver")) snprintf(sim.driver, TEXT, "%s", word);
        else if (!strcmp(key, "down_ns")) {
            sscanf(line, "%*s %lld %lld", &sim.down.from, &sim.down.to);
            sim.reload_ns = sim.down.to;
        }
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
    sim.gpus = sim.errors = sim.nonsense = 0;
    sim.reload_ns = sim.sample_ms = 0;
    sim.down = (Window){0, 0};
    sim.step_seconds = 0.1;
    snprintf(sim.driver, TEXT, "999.99 simulated");
    char line[512];
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
    sim.changed = st.st_mtim;
    sim.size = st.st_size;
    sim.inode = (long long)st.st_ino;
    return OK;
}

static int within(const Window *w, long long at) { return w->from && at >= w->from && (!w->to || at < w->to); }

/* How often a board was lost and came back: a handle is of one life. */
static unsigned life_of(const Gpu *g, long long at) {
    unsigned lives = 0;
    for (int i = 0; i < g->losses; i++) lives += g->lost[i].to && at >= g->lost[i].to;
    return lives;
}

/* What stands in the way of everything. */
static int unready(void) {
    if (!sim.opened) return UNINITIALIZED;
    int failed = refresh();
    if (failed || !sim.down.from || sim.opened_ns >= sim.down.from) return failed;
    return now_ns(CLOCK_BOOTTIME) >= (double)sim.down.from ? UNINITIALIZED : OK;
}

/* What stands in the way of a function, for one GPU or (NULL) for none in particular. */
static int refusal(const char *function, const Gpu *g) {
    if (g && g->error) return g->error;
    for (int i = 0; g && i < g->losses; i++)
        if (within(&g->lost[i], (long long)now_ns(CLOCK_BOOTTIME))) return LOST;
    for (int i = 0; i < sim.errors; i++)
        if (!strcmp(sim.error[i].function, function) && (sim.error[i].gpu < 0 || (g && sim.error[i].gpu == g->index)))
            return sim.error[i].code;
    return OK;
}

static int fault(const char *function) {
    int failed = unready();
    return failed ? failed : refusal(function, NULL);
}

/* The board of a handle that still lives, and the slice (-1 for the whole board). */
static int board_of(const char *function, Handle h, Gpu **g, int *slice) {
    int failed = unready(), index = (h >> 8) & 0xff;
    if (failed) return failed;
    if (h >> 48 != 0x5eed || ((h >> 32) & 0xffff) != (sim.epoch & 0xffff) || index >= sim.gpus) return INVALID;
    *g = &sim.gpu[index];
    *slice = (int)(h & 0xff) - 1;
    failed = refusal(function, *g);
    if (failed) return failed;
    if ((*g)->losses && ((h >> 16) & 0xff) != (life_of(*g, (long long)now_ns(CLOCK_BOOTTIME)) & 0xff)) return LOST;
    return *slice < (*g)->slices ? OK : INVALID;
}

#define CHECK() do { int failed = fault(__func__); if (failed) return failed; } while (0)
#define BOARD(h) \
    Gpu *g; int slice; \
    do { int failed = board_of(__func__, h, &g, &slice); if (failed) return failed; (void)slice; } while (0)

static int give_text(char *to, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return TOO_SMALL;
    strcpy(to, text);
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int failed = refresh();
    long long now = (long long)now_ns(CLOCK_BOOTTIME);
    if (!failed && within(&sim.down, now)) failed = NO_DRIVER;
    if (failed || sim.opened++) return failed;
    sim.opened_ns = now;
    sim.epoch++;
    return OK;
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
static int give_handle(const char *function, Gpu *g, int slice, Handle *h) {
    int failed = refusal(function, g);
    if (!failed) *h = HANDLE(sim.epoch, life_of(g, (long long)now_ns(CLOCK_BOOTTIME)), g->index, slice);
    return failed;
}

int nvmlSystemGetDriverVersion(char *to, unsigned size) { CHECK(); return give_text(to, size, sim.driver); }
int nvmlDeviceGetCount_v2(unsigned *count) { CHECK(); *count = (unsigned)sim.gpus; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *h) {
    CHECK();
    return index < (unsigned)sim.gpus ? give_handle(__func__, &sim.gpu[index], -1, h) : INVALID;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Handle *h) {
    CHECK();
    for (int i = 0; i < sim.gpus; i++)
        if (!strcmp(sim.gpu[i].uuid, uuid)) return give_handle(__func__, &sim.gpu[i], -1, h);
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(Handle h, char *to, unsigned size) {
    BOARD(h);
    return give_text(to, size, slice < 0 ? g->uuid : g->slice[slice].uuid);
}
int nvmlDeviceGetName(Handle h, char *to, unsigned size) { BOARD(h); return give_text(to, size, g->name); }
int nvmlDeviceGetPciInfo_v3(Handle h, Pci *to) {
    BOARD(h);
    memset(to, 0, sizeof *to);
    if (sscanf(g->pci, "%x:%x:%x.", &to->domain, &to->bus, &to->device) != 3) return UNSUPPORTED;
    snprintf(to->bus_id, sizeof to->bus_id, "%08X:%02X:%02X.0", to->domain, to->bus, to->device);
    return OK;
}
int nvmlDeviceGetVirtualizationMode(Handle h, unsigned *mode) { BOARD(h); *mode = g->virtual ? 2 : 0; return OK; }
int nvmlDeviceGetArchitecture(Handle h, unsigned *architecture) {
    BOARD(h);
    *architecture = (unsigned)g->architecture;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Handle h, int *major, int *minor) {
    BOARD(h);
    *major = g->major;
    *minor = g->minor;
    return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(Handle h, unsigned long long *millijoules) {
    BOARD(h);
    if (!g->energy) return UNSUPPORTED;
    double s = updated_at(), from = 0;
    if (sim.reload_ns && now_ns(CLOCK_BOOTTIME) >= (double)sim.reload_ns) from = (double)(sim.reload_ns - sim.t0_ns) / 1e9;
    *millijoules = (unsigned long long)(fmax(0, joules(g, s) - joules(g, from)) * 1e3);
    return OK;
}

static int is_averaging(const Gpu *g) { return g->major > 8 || (g->major == 8 && g->minor > 0); }

/* Mean power of the last second up to the sensors' last update. */
static double mean_watts(const Gpu *g) {
    double s = updated_at(), since = s > 1 ? s - 1 : 0;
    return s > since ? (joules(g, s) - joules(g, since)) / (s - since) : watts(g, s);
}

/* Ampere other than GA100, and newer: the mean of the last second; before: the instant. */
int nvmlDeviceGetPowerUsage(Handle h, unsigned *milliwatts) {
    BOARD(h);
    if (!g->power) return UNSUPPORTED;
    *milliwatts = (unsigned)((is_averaging(g) ? mean_watts(g) : watts(g, updated_at())) * 1e3 + 0.5);
    return OK;
}
int nvmlDeviceGetFieldValues(Handle h, int count, FieldValue *values) {
    BOARD(h);
    if (!g->fields) return UNSUPPORTED;
    for (int i = 0; i < count; i++) {
        FieldValue *v = &values[i];
        int known = g->power && (v->field == 186 || (v->field == 185 && is_averaging(g)));
        v->code = known ? OK : UNSUPPORTED;
        v->time_us = (long long)(now_ns(CLOCK_REALTIME) / 1e3);
        v->kind = 1;
        double power = v->field == 185 ? mean_watts(g) : watts(g, updated_at());
        /* Of the union power fills the low half; what stands in the other is nobody's. */
        if (known) v->value = 0x5eed5eedULL << 32 | (unsigned)(power * 1e3 + 0.5);
    }
    return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(Handle h, unsigned *milliwatts) {
    BOARD(h);
    if (g->limit_watts <= 0) return UNSUPPORTED;
    *milliwatts = (unsigned)(g->limit_watts * 1e3);
    return OK;
}
int nvmlDeviceGetPowerManagementLimitConstraints(Handle h, unsigned *least, unsigned *most) {
    BOARD(h);
    if (g->limit_watts <= 0) return UNSUPPORTED;
    *least = (unsigned)(g->limit_watts * 250);
    *most = (unsigned)(g->limit_watts * 1e3);
    return OK;
}
/* The one that is set, else the part of its limit that the board draws. */
int nvmlDeviceGetUtilizationRates(Handle h, Rates *to) {
    BOARD(h);
    if (g->mig) return UNSUPPORTED;
    double most = g->limit_watts > 0 ? g->limit_watts : 100;
    to->gpu = g->utilisation >= 0 ? (unsigned)g->utilisation : (unsigned)fmin(100, 100 * mean_watts(g) / most + 0.5);
    to->memory = 0;
    return OK;
}

static int has_mig(const Gpu *g) { return g->major >= 8 && !(g->major == 8 && g->minor > 0); }

int nvmlDeviceGetMigMode(Handle h, unsigned *current, unsigned *pending) {
    BOARD(h);
    if (!has_mig(g)) return UNSUPPORTED;
    *current = *pending = (unsigned)g->mig;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Handle h, unsigned *count) {
    BOARD(h);
    *count = has_mig(g) ? (unsigned)g->most_slices : 0;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Handle h, unsigned index, Handle *to) {
    BOARD(h);
    if (!g->mig || index >= (unsigned)g->slices) return NOT_FOUND;
    return give_handle(__func__, g, (int)index, to);
}
int nvmlDeviceGetAttributes_v2(Handle h, Attributes *to) {
    BOARD(h);
    if (slice < 0) return UNSUPPORTED;
    memset(to, 0, sizeof *to);
    to->gpu_slices = to->compute_slices = (unsigned)g->slice[slice].compute_slices;
    to->multiprocessors = 14 * to->compute_slices;
    return OK;
}
int nvmlDeviceGetGpuInstanceProfileInfo(Handle h, unsigned profile, Profile *to) {
    BOARD(h);
    static const int sizes[] = {1, 2, 3, 4, 7};
    if (!g->mig || profile >= 5 || sizes[profile] > g->most_slices) return UNSUPPORTED;
    memset(to, 0, sizeof *to);
    to->id = profile;
    to->slices = (unsigned)sizes[profile];
    to->instances = (unsigned)(g->most_slices / sizes[profile]);
    return OK;
}

static int give_processes(const Gpu *g, int slice, int client, unsigned *count, ProcessInfo *to) {
    unsigned room = *count, n = 0;
    for (int i = 0; i < g->processes; i++) {
        const Process *p = &g->process[i];
        if (p->client != client || (slice >= 0 && p->slice != slice)) continue;
        if (to && n < room) to[n] = (ProcessInfo){p->pid, p->memory, 0xFFFFFFFF, 0xFFFFFFFF};
        n++;
    }
    *count = n;
    return n > room ? TOO_SMALL : OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Handle h, unsigned *count, ProcessInfo *to) {
    BOARD(h);
    return give_processes(g, slice, 0, count, to);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle h, unsigned *count, ProcessInfo *to) {
    BOARD(h);
    return give_processes(g, slice, 1, count, to);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle h, unsigned *count, ProcessInfo *to) {
    (void)to;
    BOARD(h);
    *count = 0;
    return OK;
}
/* The last sample of every process that was busy, each of its own time; unsupported under MIG and where no process
 * tells. Nonsense beyond them is what drivers have been seen to give for processes that are gone. */
int nvmlDeviceGetProcessUtilization(Handle h, Sample *to, unsigned *count, unsigned long long last_seen_us) {
    BOARD(h);
    unsigned long long now_us = (unsigned long long)(now_ns(CLOCK_REALTIME) / 1e3), step = (unsigned long long)sim.sample_ms * 1000;
    unsigned room = to ? *count : 0, n = 0, told = 0;
    if (g->mig) return UNSUPPORTED;
    for (int i = 0; i < g->processes; i++) {
        const Process *p = &g->process[i];
        unsigned long long phase = step ? p->pid * 7919 % step : 0;
        unsigned long long at_us = step ? (now_us - phase) / step * step + phase : now_us;
        told += p->sm >= 0;
        if (p->sm <= 0 || at_us <= last_seen_us) continue;
        if (n < room) to[n] = (Sample){p->pid, at_us, (unsigned)p->sm, 0, 0, 0};
        n++;
    }
    for (int i = 0; i < sim.nonsense; i++, n++)
        if (n < room) to[n] = (Sample){4000000000u + (unsigned)i, now_us, 4294967295u, 0, 0, 0};
    *count = n;
    if (g->processes && !told) return UNSUPPORTED;
    if (!n) return NOT_FOUND;
    return n > room ? TOO_SMALL : OK;
}
