/* The cores that a process may use. Only runtime.c includes this file. `count_cores` of tilewright/processor.py counts alike.
 *
 * The logical processors of one core (hyper-threads) share its units, so that a second one gains nothing in code that keeps
 * these busy: they count as one core. A core with less than half the capacity of the best one (LITTLE cores) counts as none:
 * the others would wait for the part of a loop that it has taken last.
 */

#if defined(__linux__)
/* Open a file about a logical processor. */
static FILE *open_processor(int cpu, const char *name) {
  char path[96];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, name);
  return fopen(path, "re");
}

/* How much a core computes in some time, of at most 1024, which is the best one's. */
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
