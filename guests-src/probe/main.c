/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - the platform-neutral part: tells on the console what the guest was
 * given, then does what the words in the command line ask for.
 */
#include "probe.h"

struct guest guest;

static void report_initrd(void)
{
    struct cpio_entry entry;
    size_t offset = 0;

    json_raw(",\"initrd\":");
    if (!guest.initrd) {
        json_raw("null");
        return;
    }
    json_raw("{\"size\":");
    json_number(guest.initrd_size);
    json_raw(",\"entries\":[");
    for (int n = 0; n < MAX_INITRD_ENTRIES &&
                    cpio_next(guest.initrd, guest.initrd_size, &offset, &entry);
         n++) {
        json_raw(n ? ",{\"name\":" : "{\"name\":");
        json_string(entry.name, entry.name_len);
        json_raw(",\"size\":");
        json_number(entry.size);
        json_raw("}");
    }
    json_raw("]}");
}

/* {"bus":"...","name":"..." - the name only where the platform has one. */
static void report_device(unsigned index, const char *bus, const char *name)
{
    json_raw(index ? ",{\"bus\":" : "{\"bus\":");
    json_cstring(bus);
    if (name) {
        json_raw(",\"name\":");
        json_cstring(name);
    }
}

static void report_disks(void)
{
    json_raw(",\"disks\":[");
    for (unsigned i = 0; i < guest.ndisks; i++) {
        const struct disk *disk = &guest.disks[i];

        report_device(i, disk->bus, disk->name);
        json_raw(",\"size\":");
        json_number(disk->size);
        json_raw(",\"first\":");
        json_hex(disk->first, disk->first_len, "");
        json_raw(disk->writable ? ",\"writable\":true}" : ",\"writable\":false}");
    }
    json_raw("]");
}

static void report_ipconfig(const struct ipconfig *config)
{
    json_raw(",\"ip\":");
    if (config->have_ip)
        json_ipv4(config->ip);
    else
        json_raw("null");
    json_raw(",\"prefix\":");
    if (config->have_prefix)
        json_number(config->prefix);
    else
        json_raw("null");
    json_raw(",\"gateway\":");
    if (config->have_gateway)
        json_ipv4(config->gateway);
    else
        json_raw("null");
}

static void report_nics(void)
{
    json_raw(",\"nics\":[");
    for (unsigned i = 0; i < guest.nnics; i++) {
        const struct nic *nic = &guest.nics[i];

        report_device(i, nic->bus, nic->name);
        json_raw(",\"mac\":");
        json_hex(nic->mac, 6, ":");
        json_raw(",\"mtu\":");
        if (nic->mtu >= 0)
            json_number(nic->mtu);
        else
            json_raw("null");
        report_ipconfig(&nic->config);
        json_raw("}");
    }
    json_raw("]");
}

static void report_others(void)
{
    json_raw(",\"others\":[");
    for (unsigned i = 0; i < guest.nothers; i++) {
        const struct other *other = &guest.others[i];

        report_device(i, other->bus, NULL);
        json_raw(",\"type\":");
        json_number(other->type);
        if (other->tag[0]) {
            json_raw(",\"tag\":");
            json_cstring(other->tag);
        }
        if (other->cid) {
            json_raw(",\"cid\":");
            json_number(other->cid);
        }
        json_raw("}");
    }
    json_raw("]");
}

/* What the command line says of the network, also where there is no NIC. */
static void report_network(void)
{
    struct ipconfig config;
    uint32_t servers[MAX_DNS];
    unsigned n = cmdline_dns(guest.cmdline, servers);

    cmdline_ipconfig(guest.cmdline, 0, &config);
    report_ipconfig(&config);
    json_raw(",\"dns\":[");
    for (unsigned i = 0; i < n; i++) {
        if (i)
            json_raw(",");
        json_ipv4(servers[i]);
    }
    json_raw("]");
}

static void report(void)
{
    json_raw("{\"probe\":1,\"boot\":");
    json_cstring(guest.boot);
    json_raw(",\"cmdline\":");
    json_cstring(guest.cmdline);
    json_raw(",\"memory\":");
    json_number(guest.memory);
    json_raw(",\"vcpus\":");
    json_number(guest.vcpus);
    report_initrd();
    report_disks();
    report_nics();
    report_others();
    report_network();
    json_raw("}");
    json_end_line();
}

static void begin_event(const char *name)
{
    json_raw("{\"probe\":1,\"event\":");
    json_cstring(name);
}

static void end_event(void)
{
    json_raw("}");
    json_end_line();
}

static _Noreturn void leave(unsigned code)
{
    begin_event("exit");
    json_raw(",\"code\":");
    json_number(code);
    end_event();
    platform_exit(code);
}

/* ---- what goes on beside anything else: heartbeats, and requests to stop ---- */

static const char *const stop_words[STOP_WAYS] = {
    [STOP_CTRL_ALT_DEL] = "probe.ctrl-alt-del",
    [STOP_POWER_BUTTON] = "probe.power-button",
};
static const char *const stop_names[STOP_WAYS] = {
    [STOP_CTRL_ALT_DEL] = "ctrl-alt-del",
    [STOP_POWER_BUTTON] = "acpi-power-button",
};
#define STOP_POLL_MS 50
static bool listening[STOP_WAYS];
static uint64_t stop_codes[STOP_WAYS];
static uint64_t beat_period, next_beat; /* period 0: none */

static void read_beside_words(void)
{
    const char *value;

    for (unsigned way = 0; way < STOP_WAYS; way++)
        if ((value = cmdline_option(guest.cmdline, stop_words[way]))) {
            cmdline_number(value, &stop_codes[way]);
            listening[way] = platform_listen(way);
        }
    if ((value = cmdline_option(guest.cmdline, "probe.beat")))
        cmdline_number(value, &beat_period);
}

/* After a pause beats go on from now: those missed are not made up for. */
static void beat(uint64_t now)
{
    begin_event("beat");
    json_raw(",\"ms\":");
    json_number(now);
    end_event();
    next_beat += beat_period;
    if (next_beat <= now)
        next_beat = now + beat_period;
}

/* To be called often; returns for how many milliseconds it need not be. */
static unsigned attend(unsigned most)
{
    for (unsigned way = 0; way < STOP_WAYS; way++) {
        if (!listening[way])
            continue;
        if (platform_asked(way)) {
            begin_event("stop");
            json_raw(",\"how\":");
            json_cstring(stop_names[way]);
            end_event();
            leave(stop_codes[way]);
        }
        if (most > STOP_POLL_MS)
            most = STOP_POLL_MS;
    }
    if (beat_period) {
        uint64_t now = platform_milliseconds();

        if (now >= next_beat)
            beat(now);
        if (next_beat - now < most)
            return next_beat - now;
    }
    return most;
}

/* ---- what the guest does ------------------------------------------------------ */

static uint8_t frame[FRAME_MAX]; /* the one that is looked at */

/* Asks the first name server; beside that, only ARP requests are answered. */
static void resolve(const char *name)
{
    struct lookup lookup;
    size_t name_len = cmdline_length(name);
    bool going_on = lookup_begin(&lookup, name, name_len), idle;

    while (going_on && lookup_continue(&lookup, platform_milliseconds())) {
        unsigned wait = attend(100), unused;

        idle = true;
        for (unsigned i = 0; i < guest.nnics; i++) {
            struct nic *nic = &guest.nics[i];
            size_t len = nic->receive(nic, frame, sizeof frame);

            if (!len)
                continue;
            idle = false;
            if (lookup_input(&lookup, nic, frame, len))
                going_on = false;
            else if (len >= ETH_SIZE && get16(frame + 12) == ETHERTYPE_ARP)
                net_input(nic, frame, len, &unused);
        }
        if (going_on && idle)
            platform_wait(wait);
    }

    begin_event("resolved");
    json_raw(",\"name\":");
    json_string(name, name_len);
    json_raw(",\"address\":");
    if (lookup.have_address)
        json_ipv4(lookup.address);
    else
        json_raw("null");
    json_raw(",\"rcode\":");
    if (lookup.have_rcode)
        json_number(lookup.rcode);
    else
        json_raw("null");
    end_event();
}

/*
 * Answers the network until it is told to quit with N (the result is N) or the
 * time is over (the result is `code`); limit 0 is for ever.
 */
static unsigned serve(uint64_t limit, unsigned code)
{
    uint64_t start = platform_milliseconds();

    http_listen(guest.cmdline);
    begin_event("serving");
    end_event();
    net_announce();
    for (;;) {
        unsigned wait = attend(1000);
        bool idle = true;

        for (unsigned i = 0; i < guest.nnics; i++) {
            struct nic *nic = &guest.nics[i];
            size_t len = nic->receive(nic, frame, sizeof frame);

            if (len) {
                idle = false;
                if (net_input(nic, frame, len, &code))
                    return code;
            }
        }
        if (limit) {
            uint64_t elapsed = platform_milliseconds() - start;

            if (elapsed >= limit)
                return code;
            if (limit - elapsed < wait)
                wait = limit - elapsed;
        }
        if (idle)
            platform_wait(wait);
    }
}

/* Keeps the processor busy; limit 0 is for ever. It computes for some
   milliseconds at a time, be the processor fast or (nested KVM) emulated. */
static void burn(uint64_t limit)
{
    uint64_t start = platform_milliseconds(), now = start;
    unsigned rounds = 1000;

    while (!limit || now - start < limit) {
        uint64_t before = now;

        attend(0);
        for (volatile unsigned i = 0; i < rounds; i++)
            ;
        now = platform_milliseconds();
        if (now - before < 2)
            rounds *= 2;
        else if (now - before > 8)
            rounds = rounds / 2 + 1;
    }
}

/* Idles for ever. What the network brings is thrown away: unread frames would
   end each wait at once where the monitor does the waiting. */
static _Noreturn void hang(void)
{
    bool busy = beat_period;

    for (unsigned way = 0; way < STOP_WAYS; way++)
        busy = busy || listening[way];
    for (;;) {
        for (unsigned i = 0; i < guest.nnics; i++)
            while (guest.nics[i].receive(&guest.nics[i], frame, sizeof frame))
                ;
        platform_wait(busy ? attend(1000) : WAIT_FOREVER);
    }
}

_Noreturn void probe_main(void)
{
    uint64_t code = 0, number;
    const char *value;

    platform_discover();
    for (unsigned i = 0; i < guest.nnics; i++)
        cmdline_ipconfig(guest.cmdline, i, &guest.nics[i].config);
    read_beside_words(); /* before the report, after which requests may come */
    report();

    value = cmdline_option(guest.cmdline, "probe.exit");
    if (value && cmdline_number(value, &number))
        code = number;

    value = cmdline_option(guest.cmdline, "probe.fill");
    number = FILL_ALL;
    if (value && (cmdline_is(value, "all") || cmdline_number(value, &number))) {
        number = platform_fill(number);
        begin_event("filled");
        json_raw(",\"bytes\":");
        json_number(number);
        end_event();
    }

    if ((value = cmdline_option(guest.cmdline, "probe.resolve")))
        resolve(value);

    if ((value = cmdline_option(guest.cmdline, "probe.serve"))) {
        number = 0;
        if (!cmdline_number(value, &number) || number)
            code = serve(number, code);
    }

    if ((value = cmdline_option(guest.cmdline, "probe.burn"))) {
        number = 0;
        cmdline_number(value, &number);
        burn(number);
    }

    if (cmdline_option(guest.cmdline, "probe.hang"))
        hang();

    if (cmdline_option(guest.cmdline, "probe.triple-fault"))
        platform_crash();

    if (cmdline_option(guest.cmdline, "probe.stray"))
        platform_stray();

    leave(code);
}
