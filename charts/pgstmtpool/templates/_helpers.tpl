{{- define "pgstmtpool.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "pgstmtpool.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "pgstmtpool.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "pgstmtpool.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pgstmtpool.operator" -}}
{{- printf "%s-operator" (include "pgstmtpool.fullname" .) -}}
{{- end -}}

{{- define "pgstmtpool.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pgstmtpool.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed with serviceAccount.create: false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "pgstmtpool.selector" -}}
app.kubernetes.io/name: pgstmtpool-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pgstmtpool.labels" -}}
{{ include "pgstmtpool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: pgstmtpool
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "pgstmtpool.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "pgstmtpool.watched" -}}
{{- default .Release.Namespace .Values.watch.namespace -}}
{{- end -}}
