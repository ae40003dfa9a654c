{{- define "sessiond.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sessiond.fullname" -}}
{{- $name := include "sessiond.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sessiond.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sessiond.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sessiond.labels" -}}
{{ include "sessiond.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sessiond.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sessiond.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "sessiond.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* The store of the daemon: sled or redis. */ -}}
{{- define "sessiond.store" -}}
{{- if eq .Values.mode "central" -}}sled
{{- else if eq .Values.mode "redis" -}}redis
{{- else -}}{{ .Values.sidecar.store }}
{{- end }}
{{- end }}

{{- define "sessiond.env" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
- name: SESSIOND_CONFIG
  value: /etc/sessiond/config/sessiond.toml
- name: SESSIOND_LISTEN__GRPC
  value: {{ printf "%s:50051" ($sidecar | ternary "127.0.0.1" .Values.listenAddress) | quote }}
# The kubelet and Prometheus read it. It needs no token.
- name: SESSIOND_LISTEN__METRICS
  value: {{ printf "%s:9464" .Values.listenAddress | quote }}
{{- if and .Values.tokenSecret.name (not $sidecar) }}
- name: SESSIOND_LISTEN__AUTH__TOKEN_FILE
  value: /etc/sessiond/secrets/token
{{- end }}
{{- if and .Values.tls.secretName (not $sidecar) }}
- name: SESSIOND_LISTEN__TLS__CERT_FILE
  value: /etc/sessiond/tls/tls.crt
- name: SESSIOND_LISTEN__TLS__KEY_FILE
  value: /etc/sessiond/tls/tls.key
{{- if .Values.tls.clientCaSecretName }}
- name: SESSIOND_LISTEN__TLS__CLIENT_CA_FILE
  value: /etc/sessiond/secrets/client-ca.crt
{{- end }}
{{- end }}
{{- range $engine, $secret := .Values.cookieSecrets }}
{{- if $secret }}
- name: SESSIOND_ENGINE__{{ upper $engine }}__COOKIE__SECRET_FILE
  value: /etc/sessiond/secrets/cookie-{{ $engine }}
{{- end }}
{{- end }}
- name: SESSIOND_STORE__BACKEND
  value: {{ include "sessiond.store" . }}
{{- if eq (include "sessiond.store" .) "sled" }}
- name: SESSIOND_STORE__SLED__PATH
  value: /var/lib/sessiond/data
{{- else }}
- name: SESSIOND_STORE__REDIS__URL
  value: {{ required "redis.url is needed: the address of your Redis, such as redis://redis:6379" .Values.redis.url | quote }}
{{- with .Values.redis.username }}
- name: SESSIOND_STORE__REDIS__USERNAME
  value: {{ . | quote }}
{{- end }}
{{- if .Values.redis.passwordSecret.name }}
- name: SESSIOND_STORE__REDIS__PASSWORD_FILE
  value: /etc/sessiond/secrets/redis-password
{{- end }}
{{- if .Values.redis.caSecretName }}
- name: SESSIOND_STORE__REDIS__TLS__CA_FILE
  value: /etc/sessiond/secrets/redis-ca.crt
{{- end }}
{{- end }}
{{- if eq .Values.mode "redis" }}
- name: SESSIOND_LIMITS__MAX_CONNECTION_AGE
  value: {{ .Values.maxConnectionAge | quote }}
{{- end }}
- name: SESSIOND_RELOAD__WATCH
  value: {{ .Values.reloadWatch | quote }}
{{- with .Values.drain }}
- name: SESSIOND_RUNTIME__DRAIN
  value: {{ . | quote }}
{{- end }}
- name: SESSIOND_LOG__FORMAT
  value: {{ .Values.logFormat }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The container of the daemon, in all modes; an item of a list. */ -}}
{{- define "sessiond.container" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
- name: sessiond
  image: {{ include "sessiond.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if $sidecar }}
  # A native sidecar: it is up before the application starts, and stops after it.
  restartPolicy: Always
  {{- end }}
  env:
    {{- include "sessiond.env" . | nindent 4 }}
  ports:
    {{- if not $sidecar }}
    - name: grpc
      containerPort: 50051
    {{- end }}
    - name: {{ $sidecar | ternary "sessiond" "metrics" }}
      containerPort: 9464
  # Alive: the process answers, whatever its store does. A restart brings no Redis back.
  startupProbe:
    httpGet:
      path: /healthz
      port: {{ $sidecar | ternary "sessiond" "metrics" }}
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: {{ .Values.startupSeconds }}
  livenessProbe:
    httpGet:
      path: /healthz
      port: {{ $sidecar | ternary "sessiond" "metrics" }}
    periodSeconds: 20
    timeoutSeconds: 5
    failureThreshold: 6
  # Ready: sessions can be resolved, and it does not stop.
  readinessProbe:
    httpGet:
      path: /readyz
      port: {{ $sidecar | ternary "sessiond" "metrics" }}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 2
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    {{- if eq (include "sessiond.store" .) "sled" }}
    - name: {{ $sidecar | ternary "sessiond-data" "data" }}
      mountPath: /var/lib/sessiond
    {{- end }}
    - name: sessiond-config
      mountPath: /etc/sessiond/config
      readOnly: true
    # Without subPath, which the kubelet would not renew.
    - name: sessiond-secrets
      mountPath: /etc/sessiond/secrets
      readOnly: true
    {{- if and .Values.tls.secretName (not $sidecar) }}
    - name: sessiond-tls
      mountPath: /etc/sessiond/tls
      readOnly: true
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- /* The volumes of that container; items of a list. */ -}}
{{- define "sessiond.volumes" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
- name: sessiond-config
  configMap:
    name: {{ include "sessiond.fullname" . }}
- name: sessiond-secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $engine, $secret := .Values.cookieSecrets }}
      {{- if $secret }}
      - secret:
          name: {{ $secret.name }}
          items:
            - key: {{ $secret.key }}
              path: cookie-{{ $engine }}
      {{- end }}
      {{- end }}
      {{- if and .Values.tokenSecret.name (not $sidecar) }}
      - secret:
          name: {{ .Values.tokenSecret.name }}
          items:
            - key: {{ .Values.tokenSecret.key }}
              path: token
      {{- end }}
      {{- if and .Values.tls.secretName .Values.tls.clientCaSecretName (not $sidecar) }}
      - secret:
          name: {{ .Values.tls.clientCaSecretName }}
          items:
            - key: {{ .Values.tls.clientCaKey }}
              path: client-ca.crt
      {{- end }}
      {{- if eq (include "sessiond.store" .) "redis" }}
      {{- if .Values.redis.passwordSecret.name }}
      - secret:
          name: {{ .Values.redis.passwordSecret.name }}
          items:
            - key: {{ .Values.redis.passwordSecret.key }}
              path: redis-password
      {{- end }}
      {{- if .Values.redis.caSecretName }}
      - secret:
          name: {{ .Values.redis.caSecretName }}
          items:
            - key: {{ .Values.redis.caKey }}
              path: redis-ca.crt
      {{- end }}
      {{- end }}
{{- if and .Values.tls.secretName (not $sidecar) }}
- name: sessiond-tls
  secret:
    secretName: {{ .Values.tls.secretName }}
    defaultMode: 0440
{{- end }}
{{- if and $sidecar (eq .Values.sidecar.store "sled") }}
- name: sessiond-data
  {{- if .Values.sidecar.claimName }}
  persistentVolumeClaim:
    claimName: {{ .Values.sidecar.claimName }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A changed configuration file restarts the Pods. */ -}}
{{- define "sessiond.checksum" -}}
checksum/sessiond-config: {{ .Values.config | sha256sum }}
{{- end }}

{{- /* The template of a Pod, in the modes central and redis. */ -}}
{{- define "sessiond.pod" -}}
metadata:
  labels:
    {{- include "sessiond.labels" . | nindent 4 }}
    app.kubernetes.io/component: {{ .Values.mode }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- include "sessiond.checksum" . | nindent 4 }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "sessiond.serviceAccountName" . }}
  automountServiceAccountToken: false
  # A Service called "sessiond" would put SESSIOND_PORT and similar variables into the
  # environment. The daemon ignores them, but they are not needed.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.mode "redis" }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "sessiond.selectorLabels" $ | nindent 10 }}
    {{- end }}
    {{- end }}
  {{- end }}
  containers:
    {{- include "sessiond.container" . | nindent 4 }}
  volumes:
    {{- include "sessiond.volumes" . | nindent 4 }}
{{- end }}
