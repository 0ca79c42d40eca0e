//! Which fields of which FHIR R4 resource say when and what.
//!
//! For: one table, read by `fhir`. Not for: logic. The field names are those of <https://hl7.org/fhir/R4>.

/// Where a resource says when and what; of each list the first field that holds something counts.
pub(super) struct Row {
    pub(super) resource: &'static str,
    /// A dateTime, date, instant or Period; a dot steps into an object.
    pub(super) when: &'static [&'static str],
    /// A CodeableConcept or Coding, or a list of either.
    pub(super) code: &'static [&'static str],
}

/// The row of a resource that the table does not name.
const OTHERS: Row = row("", &["effectiveDateTime", "effectivePeriod", "period", "date"], &["code"]);

/// The row of `resource`.
pub(super) fn row_of(resource: &str) -> &'static Row {
    ROWS.iter().find(|row| row.resource == resource).unwrap_or(&OTHERS)
}

/// Whether FHIR R4 (4.0.1) has this resource.
pub(super) fn is_r4(resource: &str) -> bool {
    R4.binary_search(&resource).is_ok()
}

/// Whether FHIR R4 has this `Bundle.type`.
pub(super) fn is_bundle_type(name: &str) -> bool {
    BUNDLE_TYPES.contains(&name)
}

const fn row(resource: &'static str, when: &'static [&'static str], code: &'static [&'static str]) -> Row {
    Row { resource, when, code }
}

const MEDICATION: &[&str] = &["medicationCodeableConcept"];
const CODE: &[&str] = &["code"];
const TYPE: &[&str] = &["type"];
const NONE: &[&str] = &[];

#[rustfmt::skip] // a table reads by its lines
const ROWS: &[Row] = &[
    row("AllergyIntolerance", &["onsetDateTime", "onsetPeriod", "recordedDate"], CODE),
    row("Appointment", &["start"], &["serviceType", "appointmentType"]),
    row("AuditEvent", &["period", "recorded"], TYPE),
    row("CarePlan", &["period", "created"], NONE),
    row("CareTeam", &["period"], NONE),
    row("Claim", &["billablePeriod", "created"], TYPE),
    row("ClinicalImpression", &["effectiveDateTime", "effectivePeriod", "date"], CODE),
    row("Communication", &["sent", "received"], NONE),
    row("Composition", &["date"], TYPE),
    row("Condition", &["onsetDateTime", "onsetPeriod", "recordedDate"], CODE),
    row("Consent", &["dateTime"], &["scope"]),
    row("Coverage", &["period"], TYPE),
    row("Device", &["manufactureDate"], TYPE),
    row("DeviceRequest", &["occurrenceDateTime", "occurrencePeriod", "authoredOn"], &["codeCodeableConcept"]),
    row("DeviceUseStatement", &["timingDateTime", "timingPeriod", "recordedOn"], NONE),
    row("DiagnosticReport", &["effectiveDateTime", "effectivePeriod", "issued"], CODE),
    row("DocumentReference", &["date"], TYPE),
    row("Encounter", &["period"], TYPE),
    row("EpisodeOfCare", &["period"], TYPE),
    row("ExplanationOfBenefit", &["billablePeriod", "created"], TYPE),
    row("FamilyMemberHistory", &["date"], &["relationship"]),
    row("Flag", &["period"], CODE),
    row("Goal", &["startDate", "statusDate"], &["description"]),
    row("ImagingStudy", &["started"], &["procedureCode", "modality"]),
    row("Immunization", &["occurrenceDateTime", "recorded"], &["vaccineCode"]),
    row("List", &["date"], CODE),
    row("Location", NONE, TYPE),
    row("Media", &["createdDateTime", "createdPeriod", "issued"], TYPE),
    row("MedicationAdministration", &["effectiveDateTime", "effectivePeriod"], MEDICATION),
    row("MedicationDispense", &["whenHandedOver", "whenPrepared"], MEDICATION),
    row("MedicationRequest", &["authoredOn"], MEDICATION),
    row("MedicationStatement", &["effectiveDateTime", "effectivePeriod", "dateAsserted"], MEDICATION),
    row("MessageHeader", NONE, &["eventCoding"]),
    row("NutritionOrder", &["dateTime"], &["oralDiet.type"]),
    row("Observation", &["effectiveDateTime", "effectiveInstant", "effectivePeriod", "issued"], CODE),
    row("Organization", NONE, TYPE),
    row("Patient", NONE, NONE),
    row("PractitionerRole", &["period"], CODE),
    row("Procedure", &["performedDateTime", "performedPeriod"], CODE),
    row("Provenance", &["occurredDateTime", "occurredPeriod", "recorded"], &["activity"]),
    row("Questionnaire", &["date"], CODE),
    row("QuestionnaireResponse", &["authored"], NONE),
    row("RiskAssessment", &["occurrenceDateTime", "occurrencePeriod"], CODE),
    row("ServiceRequest", &["occurrenceDateTime", "occurrencePeriod", "authoredOn"], CODE),
    row("Specimen", &["collection.collectedDateTime", "collection.collectedPeriod", "receivedTime"], TYPE),
    row("SupplyDelivery", &["occurrenceDateTime", "occurrencePeriod"], TYPE),
    row("Task", &["executionPeriod", "authoredOn"], CODE),
    row("VisionPrescription", &["dateWritten", "created"], NONE),
];

#[rustfmt::skip]
const BUNDLE_TYPES: &[&str] = &[
    "document", "message", "transaction", "transaction-response", "batch", "batch-response", "history",
    "searchset", "collection",
];

/// The 146 resources of FHIR 4.0.1 (without the abstract two), sorted for the binary search.
#[rustfmt::skip]
const R4: &[&str] = &[
    "Account", "ActivityDefinition", "AdverseEvent", "AllergyIntolerance", "Appointment",
    "AppointmentResponse", "AuditEvent", "Basic", "Binary", "BiologicallyDerivedProduct", "BodyStructure",
    "Bundle", "CapabilityStatement", "CarePlan", "CareTeam", "CatalogEntry", "ChargeItem",
    "ChargeItemDefinition", "Claim", "ClaimResponse", "ClinicalImpression", "CodeSystem", "Communication",
    "CommunicationRequest", "CompartmentDefinition", "Composition", "ConceptMap", "Condition", "Consent",
    "Contract", "Coverage", "CoverageEligibilityRequest", "CoverageEligibilityResponse", "DetectedIssue",
    "Device", "DeviceDefinition", "DeviceMetric", "DeviceRequest", "DeviceUseStatement", "DiagnosticReport",
    "DocumentManifest", "DocumentReference", "EffectEvidenceSynthesis", "Encounter", "Endpoint",
    "EnrollmentRequest", "EnrollmentResponse", "EpisodeOfCare", "EventDefinition", "Evidence",
    "EvidenceVariable", "ExampleScenario", "ExplanationOfBenefit", "FamilyMemberHistory", "Flag", "Goal",
    "GraphDefinition", "Group", "GuidanceResponse", "HealthcareService", "ImagingStudy", "Immunization",
    "ImmunizationEvaluation", "ImmunizationRecommendation", "ImplementationGuide", "InsurancePlan", "Invoice",
    "Library", "Linkage", "List", "Location", "Measure", "MeasureReport", "Media", "Medication",
    "MedicationAdministration", "MedicationDispense", "MedicationKnowledge", "MedicationRequest",
    "MedicationStatement", "MedicinalProduct", "MedicinalProductAuthorization",
    "MedicinalProductContraindication", "MedicinalProductIndication", "MedicinalProductIngredient",
    "MedicinalProductInteraction", "MedicinalProductManufactured", "MedicinalProductPackaged",
    "MedicinalProductPharmaceutical", "MedicinalProductUndesirableEffect", "MessageDefinition",
    "MessageHeader", "MolecularSequence", "NamingSystem", "NutritionOrder", "Observation",
    "ObservationDefinition", "OperationDefinition", "OperationOutcome", "Organization",
    "OrganizationAffiliation", "Parameters", "Patient", "PaymentNotice", "PaymentReconciliation", "Person",
    "PlanDefinition", "Practitioner", "PractitionerRole", "Procedure", "Provenance", "Questionnaire",
    "QuestionnaireResponse", "RelatedPerson", "RequestGroup", "ResearchDefinition",
    "ResearchElementDefinition", "ResearchStudy", "ResearchSubject", "RiskAssessment",
    "RiskEvidenceSynthesis", "Schedule", "SearchParameter", "ServiceRequest", "Slot", "Specimen",
    "SpecimenDefinition", "StructureDefinition", "StructureMap", "Subscription", "Substance",
    "SubstanceNucleicAcid", "SubstancePolymer", "SubstanceProtein", "SubstanceReferenceInformation",
    "SubstanceSourceMaterial", "SubstanceSpecification", "SupplyDelivery", "SupplyRequest", "Task",
    "TerminologyCapabilities", "TestReport", "TestScript", "ValueSet", "VerificationResult",
    "VisionPrescription",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_name_resources_of_r4() {
        assert_eq!(R4.len(), 146);
        assert!(R4.is_sorted(), "a binary search needs order");
        assert!(ROWS.iter().all(|row| is_r4(row.resource)), "each row is of a resource of R4");
        assert!(ROWS.is_sorted_by_key(|row| row.resource), "rows read as a table");
    }
}
