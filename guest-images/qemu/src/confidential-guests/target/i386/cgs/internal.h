/*
 * Emulated confidential guests for TCG: between the core's own files
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef I386_CGS_INTERNAL_H
#define I386_CGS_INTERNAL_H

/* properties.c */
void cgs_class_properties(ObjectClass *oc);

/* faults.c */
void cgs_faults_set(CgsTcgGuest *g, CgsTcgFaultList *list);
CgsTcgFaultList *cgs_faults_get(CgsTcgGuest *g);

#endif
