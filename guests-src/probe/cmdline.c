/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmdline.c - finds the probe's options and the network configuration in the
 * command line, in every notation a unikernel runtime hands them over.
 *
 * A word begins at the start of the line, after a blank or after a double
 * quote, and ends at a blank, a double quote or the end: so options are found
 * inside the "cmdline" string of Rumprun's JSON as well.
 */
#include "probe.h"

static bool is_end(char c)
{
    return c == '\0' || c == ' ' || c == '\t' || c == '\n' || c == '"';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The value of the word that is preceded by `skip` words of the same name. */
static const char *find(const char *cmdline, const char *name, unsigned skip)
{
    size_t len = strlen(name);

    for (const char *p = cmdline; *p; p++) {
        if (p != cmdline && !is_end(p[-1]))
            continue;
        if (!starts_with(p, name))
            continue;
        if (p[len] != '=' && !is_end(p[len]))
            continue;
        if (!skip--)
            return p[len] == '=' ? p + len + 1 : "";
    }
    return NULL;
}

const char *cmdline_option(const char *cmdline, const char *name)
{
    return find(cmdline, name, 0);
}

size_t cmdline_length(const char *text)
{
    size_t n = 0;

    while (!is_end(text[n]))
        n++;
    return n;
}

bool cmdline_number(const char *text, uint64_t *value)
{
    uint64_t n = 0;

    if (!is_digit(*text))
        return false;
    while (is_digit(*text))
        n = n * 10 + (*text++ - '0');
    switch (*text) {
    case 'K': n <<= 10; text++; break;
    case 'M': n <<= 20; text++; break;
    case 'G': n <<= 30; text++; break;
    }
    if (!is_end(*text))
        return false;
    *value = n;
    return true;
}

bool cmdline_is(const char *text, const char *word)
{
    return starts_with(text, word) && is_end(text[strlen(word)]);
}

/* A dotted quad at *text; moves *text past it. */
static bool parse_ipv4(const char **text, uint32_t *address)
{
    const char *p = *text;
    uint32_t result = 0;

    for (int part = 0; part < 4; part++) {
        unsigned n = 0;

        if (part && *p++ != '.')
            return false;
        if (!is_digit(*p))
            return false;
        while (is_digit(*p))
            if ((n = n * 10 + (*p++ - '0')) > 255)
                return false;
        result = result << 8 | n;
    }
    *text = p;
    *address = result;
    return true;
}

static unsigned mask_to_prefix(uint32_t mask)
{
    unsigned n = 0;

    while (n < 32 && mask & 0x80000000u >> n)
        n++;
    return n;
}

/* "24" or "255.255.255.0" */
static void set_prefix(const char *text, struct ipconfig *config)
{
    uint32_t mask;
    unsigned n = 0;

    if (parse_ipv4(&text, &mask)) {
        config->prefix = mask_to_prefix(mask);
        config->have_prefix = true;
        return;
    }
    if (!is_digit(*text))
        return;
    while (is_digit(*text) && n <= 32)
        n = n * 10 + (*text++ - '0');
    if (n <= 32) {
        config->prefix = n;
        config->have_prefix = true;
    }
}

static void set_gateway(const char *text, struct ipconfig *config)
{
    config->have_gateway = parse_ipv4(&text, &config->gateway);
}

/* IP or IP/PLEN */
static bool set_ip(const char *text, struct ipconfig *config)
{
    if (!parse_ipv4(&text, &config->ip))
        return false;
    config->have_ip = true;
    if (*text == '/')
        set_prefix(++text, config);
    return true;
}

/* The field after that many colons, or NULL when the word ends before. */
static const char *field(const char *text, unsigned number)
{
    while (number && !is_end(*text))
        if (*text++ == ':')
            number--;
    return number ? NULL : text;
}

/* The value of "key": "value" or "key": value anywhere in the text. */
static const char *json_value(const char *text, const char *quoted_key)
{
    for (; *text; text++) {
        if (!starts_with(text, quoted_key))
            continue;
        const char *p = text + strlen(quoted_key);

        while (*p == ' ')
            p++;
        if (*p++ != ':')
            continue;
        while (*p == ' ')
            p++;
        return *p == '"' ? p + 1 : p;
    }
    return NULL;
}

/* Unikraft: netdev.ip=IP/PLEN:GW:DNS0:DNS1:HOST:DOMAIN, once for each NIC */
#define UNIKRAFT_GATEWAY 1
#define UNIKRAFT_DNS 2

static bool from_unikraft(const char *cmdline, unsigned number,
                          struct ipconfig *config)
{
    const char *value = find(cmdline, "netdev.ip", number), *text;

    if (!value || !set_ip(value, config))
        return false;
    if ((text = field(value, UNIKRAFT_GATEWAY)))
        set_gateway(text, config);
    return true;
}

/* Unikraft before 0.16: one word each */
static bool from_old_unikraft(const char *cmdline, struct ipconfig *config)
{
    const char *value = cmdline_option(cmdline, "netdev.ipv4_addr");

    if (!value || !set_ip(value, config))
        return false;
    if ((value = cmdline_option(cmdline, "netdev.ipv4_gw_addr")))
        set_gateway(value, config);
    if ((value = cmdline_option(cmdline, "netdev.ipv4_subnet_mask")))
        set_prefix(value, config);
    return true;
}

/* Linux: ip=IP:SERVER:GW:MASK:HOST:DEVICE:AUTOCONF:DNS0:DNS1, for each NIC */
#define LINUX_GATEWAY 2
#define LINUX_MASK 3
#define LINUX_DEVICE 5
#define LINUX_DNS 7

/* The number in the device's name ethN; without one, the word's place counts. */
static unsigned linux_number(const char *value, unsigned place)
{
    const char *device = field(value, LINUX_DEVICE);
    unsigned n = 0;

    if (!device || !starts_with(device, "eth") || !is_digit(device[3]))
        return place;
    for (device += 3; is_digit(*device); device++)
        n = n * 10 + (*device - '0');
    return n;
}

static bool from_linux(const char *cmdline, unsigned number,
                       struct ipconfig *config)
{
    const char *value, *text;

    for (unsigned place = 0; (value = find(cmdline, "ip", place)); place++) {
        if (linux_number(value, place) != number || !set_ip(value, config))
            continue;
        if ((text = field(value, LINUX_GATEWAY)))
            set_gateway(text, config);
        if ((text = field(value, LINUX_MASK)))
            set_prefix(text, config);
        /* Mewz: ip=IP/PLEN gateway=GW */
        if (!number && !config->have_gateway &&
            (value = cmdline_option(cmdline, "gateway")))
            set_gateway(value, config);
        return true;
    }
    return false;
}

/* MirageOS: --ipv4=IP/PLEN --ipv4-gateway=GW */
static bool from_mirage(const char *cmdline, struct ipconfig *config)
{
    const char *value = cmdline_option(cmdline, "--ipv4");

    if (!value || !set_ip(value, config))
        return false;
    if ((value = cmdline_option(cmdline, "--ipv4-gateway")))
        set_gateway(value, config);
    return true;
}

/* Rumprun: "addr":"IP","mask":"PLEN","gw":"GW" */
static bool from_rumprun(const char *cmdline, struct ipconfig *config)
{
    const char *value = json_value(cmdline, "\"addr\"");

    if (!value || !set_ip(value, config))
        return false;
    if ((value = json_value(cmdline, "\"mask\"")))
        set_prefix(value, config);
    if ((value = json_value(cmdline, "\"gw\"")))
        set_gateway(value, config);
    return true;
}

/* The probe's own, where a notation has no word for that NIC:
   probe.addressN=IP/PLEN */
static void from_probe(const char *cmdline, unsigned number,
                       struct ipconfig *config)
{
    char name[] = "probe.address?";
    const char *value;

    name[sizeof name - 2] = '0' + number; /* MAX_NICS is less than 10 */
    if ((value = cmdline_option(cmdline, name)))
        set_ip(value, config);
}

void cmdline_ipconfig(const char *cmdline, unsigned number,
                      struct ipconfig *config)
{
    memset(config, 0, sizeof *config);
    if (from_unikraft(cmdline, number, config) ||
        (!number && from_old_unikraft(cmdline, config)) ||
        from_linux(cmdline, number, config))
        return;
    if (!number &&
        (from_mirage(cmdline, config) || from_rumprun(cmdline, config)))
        return;
    from_probe(cmdline, number, config);
}

unsigned cmdline_dns(const char *cmdline, uint32_t servers[MAX_DNS])
{
    const char *value = cmdline_option(cmdline, "netdev.ip"), *text;
    unsigned first = UNIKRAFT_DNS, n = 0;

    if (!value) {
        value = cmdline_option(cmdline, "ip");
        first = LINUX_DNS;
    }
    for (unsigned i = 0; value && i < MAX_DNS; i++)
        if ((text = field(value, first + i)) && parse_ipv4(&text, &servers[n]))
            n++;
    return n;
}
