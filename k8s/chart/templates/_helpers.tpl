{{/* The image. */}}
{{- define "mana-sync.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* A value as a string. Numbers in values files are floats, and large ones would be written with an exponent. */}}
{{- define "mana-sync.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* The settings as strings: those of the base, overridden by those of the values. */}}
{{- define "mana-sync.config" -}}
{{- $config := dict }}
{{- $base := .Files.Get "base/kustomization.yaml" | fromYaml }}
{{- range (first $base.configMapGenerator).literals }}
{{- $parts := splitn "=" 2 . }}
{{- $_ := set $config $parts._0 $parts._1 }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{- $_ := set $config $name (include "mana-sync.text" $value) }}
{{- end }}
{{- range list "JWKS_URL" "MANA_CREDITS_URL" }}
{{- if not (get $config .) }}{{ fail (printf "config.%s must be set" .) }}{{ end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* Changes that the pods of the server and the migration share. Takes the values and a pod's spec, which it modifies. */}}
{{- define "mana-sync.pod" -}}
{{- $spec := .spec }}{{ $root := .root }}
{{- $container := first $spec.containers }}
{{- $_ := set $container "image" (include "mana-sync.image" $root) }}
{{- if ne $root.Values.image.pullPolicy "IfNotPresent" }}{{ $_ := set $container "imagePullPolicy" $root.Values.image.pullPolicy }}{{ end }}
{{- range $container.envFrom }}
{{- if .secretRef }}
{{- $secret := ternary $root.Values.owner $root.Values.secret (eq .secretRef.name "mana-sync-owner") }}
{{- $_ := set .secretRef "name" $secret.existing }}
{{- end }}
{{- end }}
{{- range $name := list "imagePullSecrets" "tolerations" "priorityClassName" }}
{{- with index $root.Values $name }}{{ $_ := set $spec $name . }}{{ end }}
{{- end }}
{{- $labels := dict }}
{{- range $name, $value := $root.Values.nodeSelector }}{{ $_ := set $labels $name (include "mana-sync.text" $value) }}{{ end }}
{{- with $labels }}{{ $_ := set $spec "nodeSelector" . }}{{ end }}
{{- end }}

{{/* The admin port. Takes the values and the server's container, to which it adds what components/admin adds. */}}
{{- define "mana-sync.admin" -}}
{{- $patch := .root.Files.Get "components/admin/deployment.yaml" | fromYaml }}
{{- $more := first $patch.spec.template.spec.containers }}
{{- range $more.env }}
{{- if .valueFrom }}{{ $_ := set .valueFrom.secretKeyRef "name" $.root.Values.admin.existing }}{{ end }}
{{- end }}
{{- $_ := set .container "ports" (concat $more.ports .container.ports) }}
{{- $_ := set .container "env" (concat $more.env .container.env) }}
{{- end }}
