"""
Vocabulary of [`RuleLabeler`] as regular expressions over lower-case text with single spaces: names of findings, and
cues of negation and uncertainty.

The findings and most of their names are those of the CheXpert labeler (Irvin et al. 2019, arXiv 1901.07031) as radtext
1.0 (MIT) lists them.
"""

# Names of a finding.
FINDINGS = {
    "Enlarged Cardiomediastinum": (
        r"(?:mediastinal|cardiomediastinal) (?:widening|enlargement|prominence)"
        r"|(?:enlarged|widened|prominent|wide|large) (?:cardiomediastinum|mediastinum)"
        r"|(?:enlarged|widened|prominent|wide) (?:cardio)?mediastinal (?:silhouette|contours?|shadow)"
        r"|(?:enlargement|widening|prominence) of the (?:\w+ )?(?:cardiac |heart |cardio)?(?:mediastinal|mediastinum)"
    ),
    "Cardiomegaly": (
        r"cardiomegaly|megacardia|cardiac enlargement|heart enlargement"
        r"|(?:enlarged|dilated|globular|big) (?:heart|cardiac (?:silhouette|shadow|contours?|size))"
        r"|(?:enlargement|prominence) of the (?:heart|cardiac)|cardiac hypertrophy"
    ),
    "Lung Opacity": (
        r"opaci\w*|(?:decreased|reduced) translucency|increased (?:\w+ )?density"
        r"|air[- ]?space (?:disease|process|consolidation|filling)|infiltrat\w*"
        r"|interstitial (?:markings?|patterns?|lung disease|disease|changes?|prominence|thickening|abnormalit\w*)"
        r"|(?:increased|prominent|coarse\w*) (?:\w+ )?(?:lung |bronchovascular |reticular |interstitial )?markings"
        r"|reticula(?:r|tion|tions)\b(?: patterns?| markings?)?|reticulonodular\w*"
        r"|peribronchial (?:thickening|cuffing)|(?:bronchial|airway) (?:wall )?thickening|ground[- ]?glass"
        r"|(?:parenchymal|lung|pulmonary|apical|basilar|linear|biapical) scar\w*|\bscar(?:ring|s)?\b"
    ),
    "Lung Lesion": (
        r"\bmass(?:es)?\b|nodular (?:density|densities|opacit\w*|opacification|lesions?)|nodul(?:es?|arity)\b"
        r"|\blumps?\b|cavit(?:y|ary|ation)\w*|\b(?:lung|pulmonary) lesions?|carcinoma|neoplas\w*|tumou?rs?\b"
        r"|malignan\w*|metasta\w*"
    ),
    "Edema": (
        r"o?edema|heart failure|\bchf\b"
        r"|(?:vascular|venous|pulmonary|hilar|perihilar|central|cardiac|interstitial) (?:vascular |venous )?congestion"
        r"|congestion|vascular (?:prominence|engorgement|redistribution|plethora|indistinctness|cephalization)"
        r"|(?:engorge(?:d|ment)|prominen(?:t|ce)|indistinct(?:ness)?|cephalization|redistribution) (?:of (?:the )?)?"
        r"(?:central |mediastinal )?(?:pulmonary |lung )?(?:vascul\w*|vessels)|cephalization|(?:fluid|volume) overload"
        r"|kerley|(?:cardiac|cardiogenic|cardiopulmonary) decompensation"
    ),
    "Consolidation": r"consolidat\w*",
    "Pneumonia": r"(?:broncho)?pneumonias?\b|pneumonic|\binfect(?:ion|ions|ious|ive)\b|pneumonitis",
    "Atelectasis": r"atelecta\w*|\bcollaps(?:e|ed)\b|volume loss",
    "Pneumothorax": r"pneumothora(?:x|ces|xes)|hydropneumothora\w*",
    "Pleural Effusion": (
        r"effusions?|pleural (?:fluid|collections?)|hydrothora\w*|h(?:a)?emothora\w*|hydropneumothora\w*"
        r"|fluid in the (?:\w+ )?(?:pleural|fissure)"
        r"|blunt(?:ing|ed)\b(?: of)?(?: the)?(?: \w+){0,3} (?:costophrenic|cp|sulc\w*)"
        r"|costophrenic (?:angle |sulcus )?blunting"
    ),
    "Pleural Other": (
        r"(?:pleural|pleuro|apical pleural|biapical pleural)[- ](?:parenchymal )?(?:thickening|scar\w*|plaques?)"
        r"|thicken(?:ed|ing of the) pleura\w*|fibrosis|fibrothorax|pleuro[- ](?:parenchymal|pericardial) scar\w*"
        r"|pleural (?:calcifications?|abnormalit\w*|disease|mass\w*|lesions?|based)|calcified pleura\w*"
    ),
    "Fracture": r"fractur\w*",
    "Support Devices": (
        r"pace[- ]?makers?|\bpacers?\b|\bpacing\b|\ba?icds?\b|defib\w*"
        r"|(?:central |venous |arterial |subclavian |jugular |ij |picc |swan[- ]ganz )?\blines?\b|\bpicc\b|tubes?\b"
        r"|\b(?:ett|ngt|ogt)\b"
        r"|\b(?:peg|dobb?hoff|port[- ]?a[- ]?cath|portacath|mediport|chemoport|swan[- ]ganz|impella|iabp|ecmo|lvad)\b"
        r"|\bports?\b(?= (?:catheter|tip|is|in|terminat))|catheters?|cannulas?|(?:balloon|aortic) pump|\bdrains?\b"
        r"|\bstents?\b|\bleads?\b(?! to)|\bwires?\b|\bclips?\b|\bcoils?\b|\bscrews?\b|\bplates?\b(?![- ]?like)"
        r"|hardware|arthroplast\w*|prosthe\w*"
        r"|(?:prosthetic|mechanical|replaced|artificial|bioprosthetic|mitral|aortic|tricuspid) valves?"
        r"|valve (?:replacement|prosthesis|repair)s?|tracheostom\w*|\bintubat(?:ed|ion)\b|\bdevices?\b"
        r"|(?:support|monitoring) (?:apparatus|equipment)|vagal nerve stimulator|\bstimulators?\b"
    ),
}
# A match that overlaps one of these does not mention the finding.
EXCLUDED = {
    "Lung Opacity": (
        r"pleural scar\w*|nodular opaci\w*|(?:pleuro|pleural)[- ](?:parenchymal |pericardial )?scar\w*"
        r"|radio[- ]?opa\w*"
    ),
    "Lung Lesion": (
        r"calcified (?:\w+ )?(?:nodul|mass)\w*|calcified granulom\w*|mass effect|pleural (?:mass\w*|lesions?)"
        r"|body mass|(?:thoracic|chest|pleural|abdominal|peritoneal|oral) cavity"
    ),
    "Edema": r"(?:nasal|sinus|subcutaneous|soft[- ]tissue) (?:congestion|edema)",
    "Pleural Effusion": r"pericardial effusions?|joint effusions?",
    "Pneumonia": r"granulomatous infection",
    "Atelectasis": r"(?:vertebral|vertebra|body|compression) (?:\w+ )?collapse\w*",
    "Support Devices": (
        r"(?:pleural|septal|kerley[- ]?\w?|fracture|skin|fissur\w+|paratracheal|paraspinal|b|junction|air[- ]fluid"
        r"|in) lines?|mid(?:clavicular|axillary)? lines?|(?:mitral|aortic) valve (?:annul\w*|calcif\w*)|kerley\w*"
    ),
}
# Anatomy whose state is said by the words around it.
STRUCTURES = {
    "Cardiomegaly": (
        r"\b(?:heart|cardiac (?:silhouette|size|shadow|contours?|border)|cardiopericardial silhouette)\b(?! failure)"
    ),
    "Enlarged Cardiomediastinum": r"\b(?:cardiomediastin\w*|mediastin(?:um|al)|cardiac (?:and|or) mediastinal)\b",
}
# States of a structure.
STRUCTURE_STATES = {
    "borderline": (
        r"borderline|top[- ]normal|top of normal|high normal|upper limits? of normal|upper[- ]normal|upper limits?"
        r"|mildly accentuated"
    ),
    "normal": (
        r"normal\w*|unremarkable|within (?:\w+ )?limits|not (?:\w+ )?(?:enlarged|widened|dilated|prominent)"
        r"|non[- ]?enlarged|no (?:\w+ )?(?:enlargement|widening|abnormalit\w*)|preserved"
    ),
    "enlarged": (
        r"enlarge(?:d|ment)|widen(?:ed|ing)|prominen(?:t|ce)|dilat(?:ed|ation)|increased in size|markedly increased"
        r"|large(?:r)?|wide|bulky"
    ),
    "unchanged": r"stable|unchanged|similar|not (?:\w+ )?changed|no (?:\w+ )?change|constant",
}
# These look like a negation and negate something else.
PSEUDO_NEGATIONS = (
    r"\b(?:no|not|without)\b (?:(?:any|new|significant\w*|substantial\w*|relevant|appreciabl[ey]|definite|obvious"
    r"|major|marked|interval|gross|notabl[ey]|considerabl[ey]|further|great|important|the|appear to have) )*"
    r"(?:chang(?:e|es|ed)|increas\w*|decreas\w*|improve\w*|progress\w*|worsen\w*|differen\w*|deteriorat\w*|evol\w*)"
    r"(?: (?:in|of|from|with)\b(?: the)?(?: (?:appearance|extent|size|severity|distribution|degree|amount)"
    r"(?: (?:of|and)\b(?: the)?)?)*)?|\bnot (?:only|necessarily)\b|\b(?:may|might|can|could) not\b"
    r"|\bnot (?:well|clearly|fully|completely|optimally) (?:seen|visuali[sz]ed|evaluated|assessed|delineated|defined"
    r"|appreciated)\b|\bno (?:prior|comparison|previous)\b[^,.;]*"
)
# Negate what follows, up to the end of the clause.
NEGATIONS_BEFORE = (
    r"\bno\b|\bnot\b(?! (?:be |been )?(?:entirely |fully |completely |definitely )?(?:exclude|rule))|\bnor\b"
    r"|\bneither\b|\bwithout\b|\bw/o\b|\bnegative for\b|\b(?:free|clear|clearing|cleared) of\b|\babsen(?:ce of|t)\b"
    r"|\black of\b|\brather than\b|\b(?:(?<!near.)(?<!partial.)resolution|disappearance|removal) of\b"
    r"|(?<!nearly.)\bresolved\b|\b(?:excludes?|excluded|rules? out|ruled out)\b|\bremoved\b"
)
# Negate what comes up to five words before, in the same clause.
NEGATIONS_AFTER = (
    r"\W*(?:\w+\W+){0,4}?(?:"
    r"(?:is|are|was|were|has been|have been|has|have)?\s*(?:now |since |completely |largely |essentially )*"
    r"(?:not|no longer) (?:\w+ )?(?:seen|present|identified|evident|visuali[sz]ed|appreciated|demonstrated|noted"
    r"|detected|apparent|found|visible|observed|suspected|enlarged|there)"
    r"|(?:is|are|was|were) (?:not|absent|negative|resolved|gone|removed|excluded|ruled out|free)\b"
    r"|(?:has|have|had) (?:now |since |also |completely |been |interval )*"
    r"(?:resolved|cleared|disappeared|removed|excluded|discontinued|ruled out)"
    r"|\b(?:resolved|removed|absent)\b(?= ?(?:$|,|\.))|\bremoval\b|: (?:none|no|negative|absent)\b)"
)
# What follows these is neither positive nor negative.
NOT_STATED_BEFORE = (
    r"\bhistory of\b|\bh/o\b|\bhx of\b"
    r"|\b(?:evaluate|assess|evaluation|assessment|eval|assessed|evaluated|check|look|looking|monitor|monitoring) "
    r"(?:for|of)\b|\b(?:please|to) (?:evaluate|assess|rule out|exclude)\b|\br/o\b|^ ?rule out\b|\bquery\b"
    r"|\bsensitiv\w*\b|\b(?:obscure|mask|simulate|mimic)s?\b|\b(?:status post|s/p|post) (?:\w+ ){0,2}(?:for)\b"
)
# Uncertain even beside a negation.
UNCERTAIN_STRONG_BEFORE = (
    r"\b(?:cannot|can ?not|could not|can't|must|difficult to|impossible to|unable to|not possible to|hard to)\b "
    r"(?:be )?(?:entirely |fully |completely |definitely |totally )?(?:exclude|excluded|rule out|ruled out)"
    r"|\b(?:not|without) (?:entirely |fully |completely |definitely )?(?:excluding|exclude|excluded|ruling out"
    r"|rule out|ruled out)\b|\bno evidence to (?:rule out|exclude)\b"
)
UNCERTAIN_STRONG_AFTER = (
    r"\W*(?:\w+\W+){0,6}?(?:cannot|can ?not|could not|can't|not|difficult to|impossible to|must|should) (?:\w+ ){0,3}"
    r"(?:excluded?|rule(?:d)? out|ruling out|say|tell)"
)
# Words of doubt, with the cues of the CheXpert labeler, to which "likely" and "suggests" are not uncertain.
UNCERTAIN_BEFORE = (
    r"\b(?:possibl[ey]|probabl[ey]|presumabl[ey]|presumed|questionabl[ey]|question(?: of)?|questioned|perhaps|maybe"
    r"|less likely|equivocal|indeterminate|borderline|conceivabl[ey])\b"
    r"|\b(?:suspect|suspected|suspicion|suspicious|concerns?|concerning|worrisome|suggestion|favor\w*|consider"
    r"|considered|possibility)\b(?: (?:for|of|that|is|there))*"
    r"|\b(?:may|might|could|can|would)\b (?:also |well |potentially |possibly |easily )?"
    r"(?:be|represent|reflect|indicate|include|relate|suggest|have|account|correspond|correlate|contain|signify"
    r"|result)\w*|\b(?:may|might|could)\b|\b(?:versus|vs\.?)(?= |$)"
    r"|\bdifferential (?:diagnosis )?(?:includes?|considerations?|would include|diagnosis)\b|\bdoubt\b|\bunlikely\b"
    r"|\b(?:correlate|correlation) (?:clinically )?(?:for|with)\b|\b(?:if|whether)\b|\?|\band/or\b"
    r"|\bnot (?:well|clearly|fully|completely|optimally) (?:seen|visuali[sz]ed|evaluated|assessed|delineated|defined"
    r"|appreciated)\b"
)
UNCERTAIN_AFTER = (
    r"\W*(?:\w+\W+){0,3}?(?:"
    r"(?:also |still |felt |thought |therefore )*(?:possible|possibly|probable|presumed|suspected|questioned"
    r"|questionable|unlikely|less likely|considered|favou?red|equivocal|in the differential|a possibility"
    r"|a consideration|obscured|difficult to (?:assess|evaluate)|(?:poorly|incompletely|not "
    r"(?:well|clearly|fully|completely|optimally)) (?:seen|visuali[sz]ed|evaluated|assessed))\b"
    r"|(?:may|might|could) (?:also |well |be |possibly )*(?:not|present|have|be|appear|considered|there|developing)"
    r"|and/or\b|,? ?if (?:any|present)|(?:versus|vs\.?) |\?"
    r"|(?:cannot|can not|could not) be (?:evaluated|assessed|confirmed|detected|identified))"
)
# Separates clauses: no cue reaches beyond it.
CLAUSE_BREAK = (
    r"[;:]|\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\bwhile\b|\bwhereas\b|\bexcept(?:ing)?\b|\baside from\b"
    r"|\bapart from\b|\bother than\b|\bwith the exception\b|\byet\b|\bdespite\b"
    r"|,? and (?:there (?:is|are)|the|a|an|is|are|has|have|stable|unchanged|persistent|mild|moderate|small|low)\b"
    r"|, (?:there (?:is|are)|with|consistent with|compatible with|the|which|and (?:the|there))\b"
)
# Ends a negation, unless "or" follows in the clause.
PRESENT = (
    r", (?:(?:and )?(?:stable|unchanged|persistent|persisting|mild|mildly|moderate|small|large|tiny|minimal|trace"
    r"|severe|increased|increasing|improved|improving|new|worsening|bilateral|left|right|multiple|patchy|low|again)\b)"
)
# Ends a negation in any case.
INSTEAD = (
    r", (?:and )?(?:suggest\w*|probably|possibly|likely|consistent with|compatible with|concerning|may|might|could"
    r"|favou?r\w*)\b"
)
# The verb of a clause. A negation ends at the comma before a clause with a verb of its own.
VERB = (
    r"\b(?:is|are|was|were|has|have|had|remains?|appears?|persists?|shows?|demonstrates?|suggests?|raises?|represents?"
    r"|reflects?)\b"
)
# Findings without a label of their own: a report with one of them is not "No Finding".
OTHER_FINDINGS = (
    r"emphysem\w*|hyper-?(?:inflat|expan|aerat|lucen)\w*|bronch(?:itis|iolitis|iectasis|ospasm)\w*|asthma|\bcopd\b"
    r"|chronic obstructive|hernia\w*|eventration|elevat(?:ed|ion)\b|scolio\w*|kypho\w*|degenerat\w*"
    r"|osteo(?:phyt|pen|poro|dystroph)\w*|spondyl\w*|arthr(?:itis|opath|osis|itic)\w*|calcifi\w*|granulom\w*"
    r"|atheroscl\w*|tortuo\w*|ectas\w*|aneurysm\w*|plaques?\b|thickening|aspirat\w*|bulla\w*|contusion"
    r"|pneumo(?:mediastinum|peritoneum)|hypertension|bullet|h(?:a)?ematoma|h(?:a)?emorrhage|deformit\w*|adenopathy"
    r"|sarcoid\w*|tubercul\w*|deviat(?:ed|ion)|dislocat\w*|foreign bod\w*|low (?:lung )?volumes?"
    r"|hypo-?(?:inflat|aerat|expan)\w*|blunting|subluxation|lordosis|cysts?\b"
)
