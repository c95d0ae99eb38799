{{- define "postgres.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "postgres.pool" -}}
{{- default (include "postgres.name" .) .Values.guard.pool -}}
{{- end -}}

{{- define "postgres.selector" -}}
app.kubernetes.io/name: postgres
app.kubernetes.io/instance: {{ include "postgres.name" . }}
{{- end -}}

{{- define "postgres.labels" -}}
{{ include "postgres.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "postgres.adminSecret" -}}
{{- default (include "postgres.name" .) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "postgres.replicationSecret" -}}
{{- default (printf "%s-replication" (include "postgres.name" .)) .Values.auth.existingReplicationSecret -}}
{{- end -}}

{{- define "postgres.appSecret" -}}
{{- default (printf "%s-app" (include "postgres.name" .)) .Values.auth.existingAppSecret -}}
{{- end -}}

{{/* The password of a Secret: as given, else as it is in the cluster, else a new one. */}}
{{- define "postgres.password" -}}
{{- $old := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if .given -}}
{{- .given -}}
{{- else if and $old $old.data (hasKey $old.data "password") -}}
{{- index $old.data "password" | b64dec -}}
{{- else -}}
{{- randAlphaNum 24 -}}
{{- end -}}
{{- end -}}

{{- define "postgres.secretEnv" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end -}}
