/* The cores that a process may use. runtime.c and measure/limits.c include this file. `usable_cores` of tilewright/tvm_compat.py counts alike.
 *
 * The logical processors of one core (hyper-threads) share its execution units. Kernels keep these busy, so a second logical
 * processor gains nothing: they count as one core. A core with less than half the capacity of the best one (LITTLE cores)
 * counts as none: the others would wait for the part of a loop that it has taken last.
 */

#if !defined(ROOT)
#define ROOT "" /* where proc and sys are */
#endif

#if defined(__linux__)
/* Open a file about a logical processor. */
static FILE *open_processor(int cpu, const char *name) {
  char path[96 + sizeof ROOT];
  snprintf(path, sizeof path, ROOT "/sys/devices/system/cpu/cpu%d/%s", cpu, name);
  return fopen(path, "re");
}

/* The capacity of a core, as Linux calls its relative speed. That of the fastest core is 1024. */
static int capacity_of(int cpu) {
  int capacity = 1024;
  FILE *file = open_processor(cpu, "cpu_capacity");
  if (!file) return capacity;
  if (fscanf(file, "%d", &capacity) != 1) capacity = 1024;
  fclose(file);
  return capacity;
}

/* Whether a logical processor is the first allowed one of its core. */
static int leads_core(int cpu, const cpu_set_t *allowed) {
  FILE *file = open_processor(cpu, "topology/thread_siblings_list"); /* such as 0,64 or 0-1 */
  int leads = 1, first, last;
  char mark;
  if (!file) return leads;
  while (leads && fscanf(file, "%d", &first) == 1) {
    last = first;
    mark = ',';
    if (fscanf(file, "%c", &mark) == 1 && mark == '-' && fscanf(file, "%d%c", &last, &mark) < 1) break;
    for (int other = first; leads && other <= last && other < cpu; ++other)
      if (other >= 0 && CPU_ISSET(other, allowed)) leads = 0;
    if (mark != ',') break;
  }
  fclose(file);
  return leads;
}

/* List the first logical processors of the cores that this thread may use, as far as there is room. Returns how many cores
 * there are; 0: the system does not tell. */
static int find_cores(int *cpus, int room) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return 0; /* the set is too small for more than 1024 processors */
  int best = 0, count = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    int capacity = CPU_ISSET(cpu, &allowed) ? capacity_of(cpu) : 0;
    if (capacity > best) best = capacity;
  }
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || 2 * capacity_of(cpu) < best || !leads_core(cpu, &allowed)) continue;
    if (count < room) cpus[count] = cpu;
    ++count;
  }
  return count;
}
#endif

#if defined(__linux__) && defined(TILEWRIGHT_LIBRARY)
/* Read two numbers from a file of a control group, or one from each of two files. Returns whether both were found. */
static int read_quota(const char *group, const char *first, const char *second, long *quota, long *period) {
  char path[4352 + sizeof ROOT];
  snprintf(path, sizeof path, "%s/%s", group, first);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  int found = fscanf(file, second ? "%ld" : "%ld %ld", quota, period); /* "max 100000" has no number first */
  fclose(file);
  if (!second || found != 1) return !second && found == 2;
  snprintf(path, sizeof path, "%s/%s", group, second);
  if (!(file = fopen(path, "re"))) return 0;
  found = fscanf(file, "%ld", period);
  fclose(file);
  return found == 1;
}

/* The fewest cores that the quotas of a control group and of those above it leave, of at most `cores`. */
static int limit_by_group(char *group, size_t top, int cores) {
  for (;;) {
    long quota = -1, period = 0;
    if (read_quota(group, "cpu.max", NULL, &quota, &period) ||
        read_quota(group, "cpu.cfs_quota_us", "cpu.cfs_period_us", &quota, &period)) {
      long allowed = quota > 0 && period > 0 ? (quota + period / 2) / period : cores;
      if (allowed < cores) cores = allowed > 1 ? (int)allowed : 1;
    }
    char *slash = strrchr(group, '/');
    if (!slash || (size_t)(slash - group) < top) return cores;
    *slash = 0;
  }
}

/* How many of `cores` cores the quotas of this process's control groups leave (`control_groups.py`). */
static int limit_by_quotas(int cores) {
  char line[4096], group[4224 + sizeof ROOT];
  FILE *file = fopen(ROOT "/proc/self/cgroup", "re");
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) continue;
    *path++ = 0;
    ++controllers; /* empty in version 2; such as cpu,cpuacct in version 1 */
    int processor = !*controllers;
    for (char *name = controllers; *name && !processor; name += strcspn(name, ",") + (name[strcspn(name, ",")] == ','))
      processor = strcspn(name, ",") == 3 && !strncmp(name, "cpu", 3);
    if (!processor) continue;
    int top = snprintf(group, sizeof group, ROOT "/sys/fs/cgroup%s%s", *controllers ? "/" : "", controllers);
    snprintf(group + top, sizeof group - (size_t)top, "%s", strcmp(path, "/") ? path : "");
    cores = limit_by_group(group, (size_t)top, cores);
  }
  if (file) fclose(file);
  return cores;
}
#endif
