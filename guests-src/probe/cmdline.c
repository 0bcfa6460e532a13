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

const char *cmdline_option(const char *cmdline, const char *name)
{
    size_t len = strlen(name);

    for (const char *p = cmdline; *p; p++) {
        if (p != cmdline && !is_end(p[-1]))
            continue;
        if (!starts_with(p, name))
            continue;
        if (p[len] == '=')
            return p + len + 1;
        if (is_end(p[len]))
            return "";
    }
    return NULL;
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

/* IP, IP/PLEN; *rest is what follows. */
static bool set_ip(const char *text, struct ipconfig *config, const char **rest)
{
    if (!parse_ipv4(&text, &config->ip))
        return false;
    config->have_ip = true;
    if (*text == '/') {
        set_prefix(++text, config);
        while (is_digit(*text))
            text++;
    }
    *rest = text;
    return true;
}

/* The field after the next colon, or NULL when the word ends before. */
static const char *next_field(const char *text)
{
    while (!is_end(*text))
        if (*text++ == ':')
            return text;
    return NULL;
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

void cmdline_ipconfig(const char *cmdline, struct ipconfig *config)
{
    const char *value, *rest;

    memset(config, 0, sizeof *config);

    /* Unikraft: netdev.ip=IP/PLEN:GW:DNS */
    if ((value = cmdline_option(cmdline, "netdev.ip")) &&
        set_ip(value, config, &rest)) {
        if (*rest == ':')
            set_gateway(rest + 1, config);
        return;
    }

    /* Unikraft before 0.16: one word each */
    if ((value = cmdline_option(cmdline, "netdev.ipv4_addr")) &&
        set_ip(value, config, &rest)) {
        if ((value = cmdline_option(cmdline, "netdev.ipv4_gw_addr")))
            set_gateway(value, config);
        if ((value = cmdline_option(cmdline, "netdev.ipv4_subnet_mask")))
            set_prefix(value, config);
        return;
    }

    /* Linux: ip=IP:SERVER:GW:MASK:...; Mewz: ip=IP/PLEN gateway=GW */
    if ((value = cmdline_option(cmdline, "ip")) &&
        set_ip(value, config, &rest)) {
        const char *field = next_field(rest); /* the boot server */

        if (field && (field = next_field(field))) {
            set_gateway(field, config);
            if ((field = next_field(field)))
                set_prefix(field, config);
        }
        if (!config->have_gateway &&
            (value = cmdline_option(cmdline, "gateway")))
            set_gateway(value, config);
        return;
    }

    /* MirageOS: --ipv4=IP/PLEN --ipv4-gateway=GW */
    if ((value = cmdline_option(cmdline, "--ipv4")) &&
        set_ip(value, config, &rest)) {
        if ((value = cmdline_option(cmdline, "--ipv4-gateway")))
            set_gateway(value, config);
        return;
    }

    /* Rumprun: "addr":"IP","mask":"PLEN","gw":"GW" */
    if ((value = json_value(cmdline, "\"addr\"")) &&
        set_ip(value, config, &rest)) {
        if ((value = json_value(cmdline, "\"mask\"")))
            set_prefix(value, config);
        if ((value = json_value(cmdline, "\"gw\"")))
            set_gateway(value, config);
    }
}
